#include "fault/members.hpp"

#include <algorithm>

namespace papilio::fault {

Members::Members(std::uint32_t n, Rank me, const GroupOptions& options, std::uint64_t jitter_seed)
    : n_(n),
      me_(me),
      slow_strikes_(options.slow_strikes),
      blacklist_(options.blacklist_base, jitter_seed) {
  at(me).link = Member::Link::up;
}

bool Members::gone(Rank rank) const { return goneReason(rank) != Reason::none; }

Reason Members::goneReason(Rank rank) const {
  if (at(rank).link == Member::Link::gone) return at(rank).gone_reason;
  const BlacklistEntry* entry = blacklist_.find(rank);
  return entry != nullptr && entry->reason == Reason::schema ? Reason::schema : Reason::none;
}

ContributorSet Members::present() const {
  ContributorSet out;
  for (std::uint32_t r = 0; r < n_; ++r) {
    if (!gone(Rank{r})) out.insert(Rank{r});
  }
  return out;
}

ContributorSet Members::expected() const {
  ContributorSet out;
  for (std::uint32_t r = 0; r < n_; ++r) {
    const Rank rank{r};
    if (counts(rank) && at(rank).pace != Member::Pace::late) out.insert(rank);
  }
  return out;
}

bool Members::counts(Rank rank) const {
  return rank == me_ || (!gone(rank) && !blacklist_.contains(rank));
}

bool Members::mayReduce(Rank rank, Seq seq) const {
  if (gone(rank)) return false;
  const Member& member = at(rank);
  if (!member.routed_around || seq < member.routed_from) return true;
  return member.reinstated_from.value != 0 && seq >= member.reinstated_from;
}

Rank Members::reducerFor(Rank owner, Seq seq) const {
  for (std::uint32_t step = 0; step < n_; ++step) {
    const Rank candidate{(owner.value + step) % n_};
    if (mayReduce(candidate, seq)) return candidate;
  }
  return me_;
}

bool Members::routeAround(Rank rank, Seq seq) {
  Member& member = at(rank);
  const bool news = !member.routed_around || member.reinstated_from.value != 0;
  member.routed_from = news ? seq : std::min(member.routed_from, seq);
  member.routed_around = true;
  member.reinstated_from = Seq{};
  return news;
}

void Members::reinstate(Rank rank, Seq seq) {
  if (at(rank).routed_around) at(rank).reinstated_from = seq;
}

void Members::entered(Seq seq) {
  for (std::uint32_t r = 0; r < n_; ++r) {
    Member& member = members_[r];
    if (!member.routed_around || member.reinstated_from.value == 0) continue;
    if (seq < member.reinstated_from) continue;
    member.routed_around = false;
    member.reinstated_from = Seq{};
  }
}

std::uint16_t Members::ringDistance(Rank from, Rank to) const {
  return static_cast<std::uint16_t>((to.value + n_ - from.value) % n_);
}

Reason Members::blameFor(Rank rank) const {
  const Reason reason = goneReason(rank);
  if (reason != Reason::none) return reason;
  if (const BlacklistEntry* entry = blacklist_.find(rank)) {
    return entry->reason == Reason::slow ? Reason::blacklisted : entry->reason;
  }
  if (at(rank).voted_out) return Reason::schema;
  return at(rank).link == Member::Link::joining ? Reason::unreachable : Reason::slow;
}

bool Members::doubted(Rank rank) const {
  return !counts(rank) || at(rank).pace != Member::Pace::timely;
}

PeerState Members::state(Rank rank) const {
  if (rank == me_) return PeerState::self;
  const Member& member = at(rank);
  if (member.link == Member::Link::gone) {
    return member.gone_reason == Reason::left ? PeerState::left : PeerState::dead;
  }
  if (blacklist_.contains(rank)) return PeerState::blacklisted;
  if (member.link == Member::Link::joining) return PeerState::joining;
  const bool doubtful = member.routed_around || member.pace != Member::Pace::timely;
  return doubtful ? PeerState::suspect : PeerState::live;
}

void Members::caughtUp(Rank rank) {
  Member& member = at(rank);
  member.ever_contributed = true;
  member.voted_out = false;
  member.pace = Member::Pace::timely;
  if (++member.timely_streak >= kCleanStreak) member.catch_up_spent = false;
}

bool Members::missed(Rank rank, bool strike) {
  Member& member = at(rank);
  member.pace = Member::Pace::late;
  member.timely_streak = 0;
  if (!strike) return false;
  std::erase_if(member.strikes,
                [&](std::uint64_t round) { return round + kStrikeWindow <= member.judged_rounds; });
  member.strikes.push_back(member.judged_rounds);
  if (member.strikes.size() < slow_strikes_) return false;
  member.strikes.clear();
  return true;
}

void Members::startCatchUp(Time now, Rank rank, Duration patience) {
  Member& member = at(rank);
  if (member.pace != Member::Pace::late || member.catch_up_spent) return;
  member.pace = Member::Pace::catching_up;
  member.catch_up_until = now + patience;
  member.catch_up_spent = true;
}

void Members::recordLag(Rank rank, Duration lag) {
  Member& member = at(rank);
  member.lag += (toSeconds(std::max(lag, Duration::zero())) - member.lag) / 8;
}

}  // namespace papilio::fault
