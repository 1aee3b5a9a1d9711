// Virtual time of the simulated world. Events of one instant run in the order they were added, so a
// seed always gives the same run.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "core/time.hpp"

namespace papilio::sim {

// Time of the world; a node's own (active) time is papilio::Time and stands still in a pause.
struct WorldClock {
  using rep = std::int64_t;
  using period = std::nano;
  using duration = Duration;
  using time_point = std::chrono::time_point<WorldClock>;
  static constexpr bool is_steady = true;
};
using Instant = WorldClock::time_point;

class EventQueue {
 public:
  using Action = std::function<void()>;

  Instant now() const { return now_; }
  bool empty() const { return events_.empty(); }
  void at(Instant when, Action action) {
    events_.emplace(std::pair{std::max(when, now_), added_++}, std::move(action));
  }
  void after(Duration delay, Action action) { at(now_ + delay, std::move(action)); }
  // Runs the next event. False: there is none.
  bool step() {
    if (events_.empty()) return false;
    auto node = events_.extract(events_.begin());
    now_ = node.key().first;
    node.mapped()();
    return true;
  }

 private:
  Instant now_{};
  std::uint64_t added_ = 0;
  std::map<std::pair<Instant, std::uint64_t>, Action> events_;
};

}  // namespace papilio::sim
