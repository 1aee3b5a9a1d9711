// Who is out, why and until when (protocol C6). A term for slowness doubles per relapse up to one
// hour, with +-10 % jitter, and loses one step per clean 600 s; a wrong model has no term.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "core/ids.hpp"
#include "core/time.hpp"
#include "fault/report.hpp"

namespace papilio::fault {

class Blacklist {
 public:
  Blacklist(Duration base, std::uint64_t jitter_seed) : base_(base), seed_(jitter_seed) {}

  // Enters the rank; an entry without a term is not shortened by one with a term.
  const BlacklistEntry& add(Time now, Rank rank, Incarnation incarnation, Reason reason,
                            std::optional<Duration> term);
  // Term for the next offence of a slow rank, backing off over its history.
  Duration nextTerm(Time now, Rank rank);
  bool remove(Rank rank);
  bool contains(Rank rank) const { return entries_.count(rank) != 0; }
  const BlacklistEntry* find(Rank rank) const;
  // Removes and returns the ranks whose term is over.
  std::vector<BlacklistEntry> expire(Time now);
  Time nextExpiry() const;
  std::vector<BlacklistEntry> entries() const;

  static constexpr Duration kMaxTerm = std::chrono::hours(1);
  static constexpr Duration kDecay = 600s;

 private:
  struct History {
    std::uint32_t relapses = 0;
    Time clean_since{};
  };
  double jitter(Rank rank, std::uint32_t relapse) const;

  Duration base_;
  std::uint64_t seed_;
  std::map<Rank, BlacklistEntry> entries_;
  std::map<Rank, History> history_;
};

}  // namespace papilio::fault
