// How long a round may wait for a member behind the median member (protocol D2, D5). Lags are
// pooled over all members: a chronic straggler must not buy itself patience with its own history.
#pragma once

#include <array>
#include <cstdint>

#include "core/time.hpp"

namespace papilio::fault {

class ArrivalPolicy {
 public:
  explicit ArrivalPolicy(Duration patience, Duration floor = kFloor)
      : patience_(patience), floor_(floor) {}

  // One member's arrival behind the median arrival of the same round; negative counts as zero.
  void addLag(Duration lag);
  void addCleanRound() { ++clean_rounds_; }

  // Waiting time behind the median. Patience itself until 20 clean rounds taught the usual lags,
  // then 3 x their 95th percentile within [kFloor, patience].
  Duration budget() const;
  // For a member that never contributed: it may still compile, load data or start up.
  Duration firstBudget() const { return patience_ > kStartup ? patience_ : kStartup; }
  // Behind the first member, while fewer than half are here. The others may have spent one patience
  // on somebody that this rank did not need, before they could come.
  Duration aloneBudget() const { return 2 * patience_ + kAloneMargin; }
  Duration patience() const { return patience_; }

  // What the bytes of a tensor, or of a part of it, may take longer: slower than this is slow
  // (protocol D3).
  static Duration transfer(std::uint64_t bytes) {
    return fromSeconds(static_cast<double>(bytes) / 1e6);
  }

  // A healthy process on a crowded host is not scheduled for this long now and then; measured on
  // hosts with more ranks than cores. Never more than patience.
  static constexpr Duration kFloor = 1s;
  static constexpr Duration kStartup = 60s;
  static constexpr Duration kAloneMargin = 500ms;  // a result overdue, and a fetch
  static constexpr std::uint32_t kProfileRounds = 20;

 private:
  static constexpr std::size_t kWindow = 256;

  Duration patience_;
  Duration floor_;
  std::array<Duration, kWindow> lags_{};
  std::size_t count_ = 0;
  std::size_t next_ = 0;
  std::uint64_t clean_rounds_ = 0;
  mutable Duration cached_{};  // budget after the last change
  mutable bool stale_ = true;
};

}  // namespace papilio::fault
