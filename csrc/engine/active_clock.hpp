// The only reader of a clock: turns the monotonic clock into active time of this process.
#pragma once

#include <algorithm>
#include <chrono>

#include "core/time.hpp"

namespace papilio::engine {

class ActiveTime {
 public:
  using RealClock = std::chrono::steady_clock;
  using RealTime = RealClock::time_point;

  // Reads the clock. Since the last reading the process worked, or all its threads slept until
  // `due` at the latest. What it took longer than that (the process was stopped, or not scheduled)
  // does not count as active time.
  Time advance(RealTime due = {}) {
    const auto real = RealClock::now();
    const Duration passed = real - last_;
    const Duration planned = std::max<Duration>(due - last_, Duration::zero());
    last_ = real;
    const Duration allowed = planned + kSlack;
    gap_ = passed > planned + kPause ? passed - planned : Duration::zero();
    now_ += std::min(passed, allowed);
    return now_;
  }
  Time now() const { return now_; }
  // When somebody who sleeps from now on for `planned` is due.
  RealTime dueIn(Duration planned) const { return last_ + planned; }
  // How long this process was away before the last advance(); zero when it was not.
  Duration gap() const { return gap_; }

  static constexpr Duration kSlack = 50ms;
  static constexpr Duration kPause = 250ms;

 private:
  RealTime last_ = RealClock::now();
  Time now_{1s};  // never the zero that the machines use as "never seen"
  Duration gap_{};
};

}  // namespace papilio::engine
