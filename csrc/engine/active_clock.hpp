// The only reader of a clock: turns the monotonic clock into active time of this process.
#pragma once

#include <algorithm>
#include <chrono>

#include "core/time.hpp"

namespace papilio::engine {

class ActiveTime {
 public:
  using RealClock = std::chrono::steady_clock;

  // Reads the clock after a wait that was meant to last at most `planned`. What the wait took
  // longer than that (the process was stopped, or not scheduled) does not count as active time.
  Time advance(Duration planned) {
    const auto real = RealClock::now();
    const Duration passed = real - last_;
    last_ = real;
    const Duration allowed = planned + kSlack;
    gap_ = passed > planned + kPause ? passed - planned : Duration::zero();
    now_ += std::min(passed, allowed);
    return now_;
  }
  Time now() const { return now_; }
  // How long this process was away before the last advance(); zero when it was not.
  Duration gap() const { return gap_; }

  static constexpr Duration kSlack = 50ms;
  static constexpr Duration kPause = 250ms;

 private:
  RealClock::time_point last_ = RealClock::now();
  Time now_{1s};  // never the zero that the machines use as "never seen"
  Duration gap_{};
};

}  // namespace papilio::engine
