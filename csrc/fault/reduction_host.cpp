// Contributions that stand for several ranks of a host.
#include <algorithm>

#include "fault/mutant.hpp"
#include "fault/reduction.hpp"

namespace papilio::fault {

ContributorSet Reduction::setOf(const Duty& duty, const ContributorSet& sources) {
  if (duty.shares.empty()) return sources;
  ContributorSet out;
  sources.forEach([&](Rank source) {
    const auto share = duty.shares.find(source);
    if (share == duty.shares.end()) {
      out.insert(source);
    } else {
      out = out | share->second.set;
    }
  });
  return out;
}

// Nothing more is to come from these: their leader has spoken. If it is dead, what it sent does not
// count, and the next one of the host speaks for them again. If it was banned here meanwhile, what
// it sent does not count either, but they take it for delivered.
ContributorSet Reduction::covered(const Duty& duty) const {
  ContributorSet out;
  for (const auto& [source, share] : duty.shares) {
    if (duty.arrived.contains(source) && !members_.gone(source)) out = out | share.host;
  }
  return out;
}

// The senders whose data goes in. Two may speak for the same rank, when one took over from a leader
// that was only slow: it counts once, by way of the one that speaks for more.
ContributorSet Reduction::chosen(const Duty& duty) const {
  std::vector<Rank> sources;
  duty.arrived.forEach([&](Rank rank) {
    const bool counts =
        duty.shares.count(rank) != 0 ? members_.speaksHere(rank) : members_.counts(rank);
    if (counts && !duty.settled.contains(rank)) sources.push_back(rank);
  });
  const auto size = [&](Rank rank) {
    const auto share = duty.shares.find(rank);
    return share == duty.shares.end() ? 1 : share->second.set.count();
  };
  if (!duty.shares.empty()) {
    std::stable_sort(sources.begin(), sources.end(),
                     [&](Rank a, Rank b) { return size(a) > size(b); });
  }
  ContributorSet out;
  ContributorSet in;
  for (const Rank source : sources) {
    ContributorSet one;
    one.insert(source);
    const auto set = setOf(duty, one);
    if (!(set & in).empty() && !PAPILIO_MUTANT(counted_once)) continue;
    in = in | set;
    out.insert(source);
  }
  return out;
}

void Reduction::represent(Time now, Rank src, const Share& share) {
  share.set.forEach([&](Rank rank) {
    if (rank == src) return;
    represented_.insert(rank);
    speakers_[rank.value] = src;
    last_seen_[rank.value] = now;
    if (first_seen_[rank.value] == kNever) first_seen_[rank.value] = now;
  });
}

}  // namespace papilio::fault
