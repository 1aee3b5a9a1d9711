// What brings collectives of tensors on a device to the engine: in the order in which they were
// issued, each when its inputs are in host memory. One per backend, with one thread, from its first
// such collective on. A collective on CPU tensors goes this way too while others are before it: the
// ranks number their collectives by the order in which the engine gets them.
#pragma once

#include <c10/core/Stream.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "process_group/device_op.hpp"

namespace papilio::pg {

class DeviceQueue {
 public:
  using Submit = std::function<void()>;

  explicit DeviceQueue(c10::DeviceType type);
  // stop() must have been called.
  ~DeviceQueue() = default;

  // Enqueues the collective on the device, behind the caller's current stream. Blocks while more
  // than kPinnedBudget of host memory is in use by others. Its one tensor may be added up first, or
  // go by reference.
  std::shared_ptr<DeviceOp> begin(Staged staged, std::vector<at::Tensor> keep,
                                  const std::optional<SumIssue>& sum = std::nullopt,
                                  std::optional<LaneIssue> by_reference = std::nullopt);
  // Worth a look; any thread, never blocks.
  void wake() { added_.notify_one(); }
  // Calls `submit` on the queue's thread, after those that were added before, when `op` (may be
  // null) is ready.
  void add(std::shared_ptr<DeviceOp> op, Submit submit);
  // Nothing is waiting to be submitted.
  bool idle() const;
  // Until everything that was added is done on the device, at most `limit`. False: it is not.
  bool drain(std::chrono::milliseconds limit);
  // The groups that `submit` leads to have ended. Ends the thread; after `limit`, what is not ready
  // is submitted as it is (and fails), and what is not done keeps its memory for ever.
  void stop(std::chrono::milliseconds limit = std::chrono::seconds(10));

  // Host memory that collectives under way may use together, one of them always.
  static constexpr std::uint64_t kPinnedBudget = 1ULL << 30;

 private:
  struct Waiting {
    std::shared_ptr<DeviceOp> op;
    Submit submit;
  };

  void main();
  bool submitReady(std::unique_lock<std::mutex>& lock);
  bool advance(std::unique_lock<std::mutex>& lock);
  bool dropDone(std::unique_lock<std::mutex>& lock);
  bool forced() const;
  c10::Stream takeStream(c10::Device device);

  const c10::DeviceType type_;
  mutable std::mutex mutex_;
  std::condition_variable added_;
  std::condition_variable changed_;
  std::deque<Waiting> waiting_;  // the first stays until it has been submitted
  std::vector<std::shared_ptr<DeviceOp>> flying_;
  std::vector<std::shared_ptr<DeviceOp>> by_reference_;  // of advance(), kept for its memory
  std::map<c10::DeviceIndex, std::vector<c10::Stream>> idle_streams_;
  std::uint64_t pinned_ = 0;
  bool stopping_ = false;
  std::chrono::steady_clock::time_point stop_at_;
  std::thread thread_;  // last: it uses the rest
};

}  // namespace papilio::pg
