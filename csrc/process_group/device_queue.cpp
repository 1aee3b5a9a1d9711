#include "process_group/device_queue.hpp"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <pthread.h>

#include <algorithm>

#include "process_group/capture_mode.hpp"

namespace papilio::pg {

namespace {

using Clock = std::chrono::steady_clock;

// How often events are asked for: at first often, then less.
constexpr std::chrono::microseconds kShortest{10};
constexpr std::chrono::microseconds kLongest{200};

}  // namespace

DeviceQueue::DeviceQueue(c10::DeviceType type) : type_(type), thread_([this] { main(); }) {}

c10::Stream DeviceQueue::takeStream(c10::Device device) {
  std::lock_guard lock(mutex_);
  auto& idle = idle_streams_[device.index()];
  if (idle.empty()) {
    // torch hands out a few dozen, in turn. Beyond them two collectives share one: correct, but the
    // later can not pass the earlier.
    return c10::impl::VirtualGuardImpl(type_).getStreamFromGlobalPool(device,
                                                                      /*isHighPriority=*/true);
  }
  const auto stream = idle.back();
  idle.pop_back();
  return stream;
}

std::shared_ptr<DeviceOp> DeviceQueue::begin(Staged staged, std::vector<at::Tensor> keep,
                                             const std::optional<SumIssue>& sum,
                                             std::optional<LaneIssue> by_reference) {
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] {
      return flying_.empty() || pinned_ + staged.bytes() <= kPinnedBudget || stopping_;
    });
    TORCH_CHECK_WITH(DistBackendError, !stopping_, "papilio: the group was shut down");
  }
  const auto device = *staged.device();
  const auto stream = takeStream(device);
  std::shared_ptr<DeviceOp> op;
  if (by_reference) {
    op = std::make_shared<DeviceOp>(std::move(staged), std::move(keep), stream, takeStream(device),
                                    std::move(*by_reference));
  } else if (sum) {
    op = std::make_shared<DeviceOp>(std::move(staged), std::move(keep), stream, takeStream(device),
                                    *sum);
  } else {
    op = std::make_shared<DeviceOp>(std::move(staged), std::move(keep), stream);
  }
  std::lock_guard lock(mutex_);
  flying_.push_back(op);
  pinned_ += op->bytes();
  return op;
}

void DeviceQueue::add(std::shared_ptr<DeviceOp> op, Submit submit) {
  {
    std::lock_guard lock(mutex_);
    if (!stopping_) {
      waiting_.push_back({op, std::move(submit)});
      added_.notify_one();
      return;
    }
  }
  submit();  // its group has ended: it fails, and opens the gate
  if (op && op->lane() != nullptr) op->lane()->giveUp();
}

bool DeviceQueue::idle() const {
  std::lock_guard lock(mutex_);
  return waiting_.empty();
}

bool DeviceQueue::drain(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, limit, [&] { return waiting_.empty() && flying_.empty(); });
}

bool DeviceQueue::forced() const { return stopping_ && Clock::now() >= stop_at_; }

bool DeviceQueue::submitReady(std::unique_lock<std::mutex>& lock) {
  if (waiting_.empty()) return false;
  auto& first = waiting_.front();  // a deque's elements stay where they are
  lock.unlock();
  const bool ready = !first.op || first.op->ready();
  lock.lock();
  if (!ready && !forced()) return false;
  lock.unlock();
  first.submit();
  lock.lock();
  waiting_.pop_front();
  changed_.notify_all();
  return true;
}

// Of collectives by reference: what follows when the engine is through with them.
bool DeviceQueue::advance(std::unique_lock<std::mutex>& lock) {
  for (const auto& op : flying_) {
    if (op->lane() != nullptr && !op->lane()->over()) by_reference_.push_back(op);
  }
  if (by_reference_.empty()) return false;
  const bool give_up = forced();
  lock.unlock();
  bool moved = false;
  for (const auto& op : by_reference_) {
    if (give_up) op->lane()->giveUp();
    moved = op->lane()->advance() || moved;
  }
  by_reference_.clear();
  lock.lock();
  return moved;
}

bool DeviceQueue::dropDone(std::unique_lock<std::mutex>& lock) {
  std::vector<std::shared_ptr<DeviceOp>> done;
  const auto first_done = std::stable_partition(flying_.begin(), flying_.end(),
                                                [](const auto& op) { return !op->done(); });
  done.assign(first_done, flying_.end());
  if (done.empty()) return false;
  flying_.erase(first_done, flying_.end());
  for (const auto& op : done) {
    pinned_ -= op->bytes();
    for (const auto& stream : op->streams()) {
      auto& idle = idle_streams_[stream.device_index()];
      if (std::find(idle.begin(), idle.end(), stream) == idle.end()) idle.push_back(stream);
    }
  }
  changed_.notify_all();
  lock.unlock();
  done.clear();  // the last reference to a tensor may need the interpreter lock
  lock.lock();
  return true;
}

void DeviceQueue::main() {
  pthread_setname_np(pthread_self(), "papilio-device");
  const RelaxedCapture relaxed(type_);
  auto pause = kShortest;
  std::unique_lock lock(mutex_);
  while (true) {
    if (waiting_.empty() && flying_.empty()) {
      if (stopping_) return;
      added_.wait(lock);
      continue;
    }
    const bool moved = submitReady(lock) | advance(lock) | dropDone(lock);
    if (moved) {
      pause = kShortest;
      continue;
    }
    if (forced() && waiting_.empty()) {
      // What the device still uses must not be given back.
      new std::vector<std::shared_ptr<DeviceOp>>(std::move(flying_));
      return;
    }
    added_.wait_for(lock, pause);
    pause = std::min(pause * 2, kLongest);
  }
}

void DeviceQueue::stop(std::chrono::milliseconds limit) {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    stop_at_ = Clock::now() + limit;
    added_.notify_all();
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

}  // namespace papilio::pg
