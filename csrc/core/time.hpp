// Time as an argument. The core rooms never read a clock: the engine passes `Time`, which counts
// ACTIVE time of this process (a frozen process does not age its peers; protocol D1).
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace papilio {

// Tag without now(): only the engine's clock and the simulator create values.
struct ActiveClock {
  using rep = std::int64_t;
  using period = std::nano;
  using duration = std::chrono::nanoseconds;
  using time_point = std::chrono::time_point<ActiveClock>;
  static constexpr bool is_steady = true;
};

using Duration = std::chrono::nanoseconds;
using Time = ActiveClock::time_point;

using namespace std::chrono_literals;

inline constexpr Time kNever = Time::max();

constexpr Duration fromSeconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}
constexpr double toSeconds(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}
// For messages: "250 ms", rounded down.
inline std::string milliseconds(Duration duration) {
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count()) +
         " ms";
}

}  // namespace papilio
