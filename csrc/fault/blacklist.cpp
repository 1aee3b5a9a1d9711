#include "fault/blacklist.hpp"

#include <algorithm>

#include "core/hash.hpp"

namespace papilio::fault {

const BlacklistEntry& Blacklist::add(Time now, Rank rank, Incarnation incarnation, Reason reason,
                                     std::optional<Duration> term) {
  const Time expires = term ? now + *term : kNever;
  auto [it, fresh] = entries_.try_emplace(rank);
  BlacklistEntry& entry = it->second;
  if (!fresh && entry.expires == kNever && expires != kNever) return entry;
  entry = {rank, incarnation, reason, history_[rank].relapses, now, expires};
  return entry;
}

Duration Blacklist::nextTerm(Time now, Rank rank) {
  History& history = history_[rank];
  const auto clean_steps =
      history.relapses == 0 ? 0 : static_cast<std::uint32_t>((now - history.clean_since) / kDecay);
  history.relapses -= std::min(history.relapses, clean_steps);
  const std::uint32_t doublings = std::min(history.relapses, 20U);
  const Duration plain = std::min(base_ * (std::int64_t{1} << doublings), kMaxTerm);
  const auto term = fromSeconds(toSeconds(plain) * jitter(rank, history.relapses));
  ++history.relapses;
  history.clean_since = now + term;
  return term;
}

double Blacklist::jitter(Rank rank, std::uint32_t relapse) const {
  const auto h = hashCombine(hashCombine(seed_, rank.value), relapse);
  return 0.9 + 0.2 * static_cast<double>(h % 10001) / 10000.0;
}

bool Blacklist::remove(Rank rank) { return entries_.erase(rank) != 0; }

const BlacklistEntry* Blacklist::find(Rank rank) const {
  const auto it = entries_.find(rank);
  return it == entries_.end() ? nullptr : &it->second;
}

std::vector<BlacklistEntry> Blacklist::expire(Time now) {
  std::vector<BlacklistEntry> over;
  for (auto it = entries_.begin(); it != entries_.end();) {
    if (it->second.expires <= now) {
      over.push_back(it->second);
      it = entries_.erase(it);
    } else {
      ++it;
    }
  }
  return over;
}

Time Blacklist::nextExpiry() const {
  Time next = kNever;
  for (const auto& [rank, entry] : entries_) next = std::min(next, entry.expires);
  return next;
}

std::vector<BlacklistEntry> Blacklist::entries() const {
  std::vector<BlacklistEntry> out;
  for (const auto& [rank, entry] : entries_) out.push_back(entry);
  return out;
}

}  // namespace papilio::fault
