// Who holds the wheel drives the engine: the progress thread, or for a while a thread that waits
// for a collective (docs/adr/0016). Everything marked "progress thread" needs it. Nobody sleeps
// with it.
#pragma once

#include <sched.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <utility>

namespace papilio::engine {

class Wheel {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // The calling thread must not hold it already.
  void lock() {
    wanted_.fetch_add(1);
    mutex_.lock();
    wanted_.fetch_sub(1);
    holder_.store(std::this_thread::get_id());
  }
  // False: it did not become free until `end`.
  bool lockUntil(TimePoint end) {
    wanted_.fetch_add(1);
    const bool got = mutex_.try_lock_until(end);
    wanted_.fetch_sub(1);
    if (got) holder_.store(std::this_thread::get_id());
    return got;
  }
  void unlock() {
    holder_.store({});
    mutex_.unlock();
  }
  // By the calling thread.
  bool held() const { return holder_.load() == std::this_thread::get_id(); }
  // Another thread waits for it.
  bool wanted() const { return wanted_.load() != 0; }
  // Lets those have it that wait for it; a mutex alone would be taken again before they wake up.
  void giveWay() {
    if (!wanted()) return;
    letOthers();
    lock();
  }
  // The same with a limit. False: it is not held any more.
  bool giveWayUntil(TimePoint end) {
    if (!wanted()) return true;
    letOthers();
    return lockUntil(end);
  }
  // `action`, with the wheel in hand: for handlers that run wherever their event is seen.
  template <class Action>
  auto guarding(Action action) {
    return [this, action = std::move(action)](auto&&... args) mutable {
      if (held()) return action(std::forward<decltype(args)>(args)...);
      const std::lock_guard lock(*this);
      action(std::forward<decltype(args)>(args)...);
    };
  }

 private:
  static constexpr int kTurns = 100;
  void letOthers() {
    unlock();
    for (int turn = 0; turn < kTurns && wanted(); ++turn) sched_yield();
  }

  std::timed_mutex mutex_;
  std::atomic<int> wanted_{0};
  std::atomic<std::thread::id> holder_{};
};

}  // namespace papilio::engine
