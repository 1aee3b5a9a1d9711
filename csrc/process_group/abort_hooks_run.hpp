// Abort hooks, one after the other, on a thread of their own: who waits for a hung collective does
// not wait for them for long.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <chrono>
#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <thread>

namespace papilio::pg {

class AbortHooksRun {
 public:
  using Hooks = std::map<std::int64_t, std::shared_ptr<c10d::AbortHook>>;

  explicit AbortHooksRun(Hooks hooks);
  // Leaves behind a hook that does not end.
  ~AbortHooksRun();
  // True when all have ended.
  bool wait(std::chrono::seconds limit);

 private:
  std::future<void> done_;
  std::thread thread_;
};

}  // namespace papilio::pg
