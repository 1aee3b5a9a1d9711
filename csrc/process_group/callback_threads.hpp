// Runs what must not run on the progress thread: completion of futures, release of tensors, log
// lines, Python event handlers. One job at a time and in order, as long as no job blocks. A job
// that blocks, such as a callback that waits for another collective's future, keeps its thread;
// another thread goes on with the queue.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace papilio::pg {

class CallbackThreads {
 public:
  // A job is taken to be blocked when it is still running after one to two of these and others
  // wait behind it.
  static constexpr std::chrono::milliseconds kPatience{10};
  // Jobs that may be blocked at the same time, less one; what comes after that waits its turn.
  static constexpr std::size_t kMost = 64;
  // How long stop() waits for a job that does not end.
  static constexpr std::chrono::seconds kStopLimit{10};

  CallbackThreads();
  ~CallbackThreads();

  // From any thread; never blocks for longer than a queue operation. After stop() the job runs at
  // once in the calling thread.
  void post(std::function<void()> job);
  // The calling thread, if it runs a job, is about to wait for something that may come through the
  // queue: others do not wait for it.
  static void mayBlock();
  // Runs what is queued, then ends the threads. Not from a job. False: a job was still running
  // after `limit`; its thread is left behind.
  bool stop(std::chrono::milliseconds limit = kStopLimit);
  // For tests.
  std::size_t threads() const;

 private:
  struct Shared;
  static void spawn(const std::shared_ptr<Shared>& shared);
  static void main(const std::shared_ptr<Shared>& shared);

  const std::shared_ptr<Shared> shared_;
  static thread_local Shared* current_;
  static thread_local std::uint64_t current_reign_;
};

}  // namespace papilio::pg
