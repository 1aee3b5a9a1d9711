#include "fault/members.hpp"

#include <algorithm>
#include <utility>

#include "fault/mutant.hpp"

namespace papilio::fault {

Members::Members(std::uint32_t n, Rank me, const GroupOptions& options, std::uint64_t jitter_seed)
    : n_(n),
      me_(me),
      slow_strikes_(options.slow_strikes),
      hosts_(n),
      blacklist_(options.blacklist_base, jitter_seed) {
  at(me).link = Member::Link::up;
  for (std::uint32_t r = 0; r < n; ++r) hosts_[r].insert(Rank{r});
}

void Members::place(const std::vector<std::uint32_t>& hosts) {
  for (std::uint32_t a = 0; a < hosts.size(); ++a) {
    for (std::uint32_t b = 0; b < hosts.size(); ++b) {
      if (hosts[a] == hosts[b]) hosts_[a].insert(Rank{b});
    }
  }
}

void Members::leaveOut(const ContributorSet& absent, Reason why) {
  absent_ = absent;
  absent.forEach([&](Rank rank) {
    at(rank).link = Member::Link::gone;
    at(rank).gone_reason = why;
  });
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
    const bool late = at(rank).pace == Member::Pace::late && !PAPILIO_MUTANT(sticky_lateness);
    if (counts(rank) && !late) out.insert(rank);
  }
  return out;
}

bool Members::counts(Rank rank) const {
  const bool out = blacklist_.contains(rank) && !PAPILIO_MUTANT(blacklisted_not_counted);
  return rank == me_ || (!gone(rank) && !out);
}

bool Members::speaksHere(Rank rank) const {
  const BlacklistEntry* entry = blacklist_.find(rank);
  const bool slow = entry != nullptr && entry->reason == Reason::slow;
  return counts(rank) || ((slow || near(rank)) && !gone(rank));
}

bool Members::mayReduce(Rank rank, Seq seq) const {
  if (gone(rank) && !PAPILIO_MUTANT(dead_reducer_passed_over)) return false;
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

bool Members::reducesForSure(Rank owner) const {
  for (Rank rank = owner; rank != me_; rank = Rank{(rank.value + 1) % n_}) {
    if (!gone(rank)) return false;
  }
  return true;
}

bool Members::onlyReducer(Seq seq) const {
  for (std::uint32_t r = 0; r < n_; ++r) {
    if (Rank{r} != me_ && mayReduce(Rank{r}, seq)) return false;
  }
  return true;
}

ContributorSet Members::goingAround(Seq seq) const {
  ContributorSet out;
  for (std::uint32_t r = 0; r < n_; ++r) {
    if (members_[r].promised > seq) out.insert(Rank{r});
  }
  return out;
}

bool Members::endedBefore(Rank reducer, Rank owner) const {
  for (Rank rank = owner; rank != reducer; rank = Rank{(rank.value + 1) % n_}) {
    const Reason why = goneReason(rank);
    if (why != Reason::dead && why != Reason::left) return false;
  }
  return true;
}

Members::Routed Members::routeAround(Rank rank, Seq seq) {
  Member& member = at(rank);
  const bool news = !member.routed_around || member.reinstated_from.value != 0;
  const bool earlier = !news && seq < member.routed_from;
  member.routed_from = news || earlier ? seq : member.routed_from;
  member.routed_around = true;
  member.reinstated_from = Seq{};
  return news ? Routed::news : earlier ? Routed::earlier : Routed::known;
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

ContributorSet Members::silent(Time now, Duration limit) const {
  ContributorSet out;
  present().forEach([&](Rank rank) {
    const Time asked = at(rank).asked;
    if (asked != kNever && now - asked >= limit) out.insert(rank);
  });
  return out;
}

ContributorSet Members::lateSince(Time then) const {
  ContributorSet out;
  present().forEach([&](Rank rank) {
    const Member& member = at(rank);
    const bool late = member.pace == Member::Pace::late && member.late_since >= then;
    if (late && rank != me_ && member.held_by.empty()) out.insert(rank);
  });
  return out;
}

Reason Members::blameFor(Rank rank) const {
  const BlacklistEntry* entry = blacklist_.find(rank);
  // Its process usually ends soon after; what it is missing for is still its model.
  if (entry != nullptr && entry->reason == Reason::schema) return Reason::schema;
  const Reason reason = goneReason(rank);
  if (reason != Reason::none) return reason;
  if (entry != nullptr) {
    return entry->reason == Reason::slow ? Reason::blacklisted : entry->reason;
  }
  if (at(rank).voted_out) return Reason::schema;
  return at(rank).link == Member::Link::joining ? Reason::unreachable : Reason::slow;
}

bool Members::refusedBy(Rank rank) const {
  return at(rank).refuses && !at(rank).voted_out && !gone(rank);
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
  trustAgain(rank);
  if (++member.timely_streak >= kCleanStreak) member.catch_up_spent = false;
}

void Members::trustAgain(Rank rank) {
  Member& member = at(rank);
  member.pace = Member::Pace::timely;
  member.held = false;
  member.held_by = {};
}

bool Members::missed(Time now, Rank rank, bool strike,
                     const std::optional<ContributorSet>& held_by) {
  Member& member = at(rank);
  // Still the same incident: it has not caught up since somebody held it up; and what nobody is to
  // blame for does not excuse what was its own doing.
  ContributorSet others = member.held_by;
  others.erase(me_);
  const bool again = member.pace != Member::Pace::timely;
  const bool known = again && (!others.empty() || (!member.held && held_by && held_by->empty()));
  if (!known) {
    member.held = held_by.has_value();
    member.held_by = held_by.value_or(ContributorSet{});
  }
  if (member.pace != Member::Pace::late) member.late_since = now;
  member.pace = Member::Pace::late;
  member.timely_streak = 0;
  if (!strike || member.held) return false;
  std::erase_if(member.strikes,
                [&](std::uint64_t round) { return round + kStrikeWindow <= member.judged_rounds; });
  member.strikes.push_back(member.judged_rounds);
  if (member.strikes.size() < slow_strikes_) return false;
  member.strikes.clear();
  return true;
}

void Members::noteWaits(Time now, Rank rank, Seq seq, const ContributorSet& missing) {
  if (missing.contains(rank)) return;  // its own thread is late
  Member& member = at(rank);
  if (missing.empty()) {  // it waits no longer in that round
    if (seq != member.waits_in) return;
    if (!member.waits_for.empty()) member.waited_until = now;
    member.waits_for = {};
    return;
  }
  const bool fresh = saysItWaits(now, member);
  if (fresh && seq > member.waits_in) return;  // the oldest round is what it is stuck in
  member.waits_for = missing;
  member.waits_in = seq;
  member.waits_at = now;
}

bool Members::saysItWaits(Time now, const Member& member) const {
  return !member.waits_for.empty() && now - member.waits_at <= kFreshWord;
}

bool Members::waits(Time now, Rank rank, Seq seq) const {
  return saysItWaits(now, at(rank)) && at(rank).waits_in <= seq;
}

ContributorSet Members::rootsOf(Time now, const ContributorSet& ranks, Seq seq) const {
  ContributorSet seen = ranks;
  ContributorSet roots;
  std::vector<std::pair<Rank, Seq>> open;
  ranks.forEach([&](Rank rank) { open.emplace_back(rank, seq); });
  while (!open.empty()) {
    const auto [rank, in] = open.back();
    open.pop_back();
    if (gone(rank) || !waits(now, rank, in)) {
      roots.insert(rank);
      continue;
    }
    const Member& member = at(rank);
    bool led_on = false;
    (member.waits_for & all()).forEach([&](Rank next) {
      // Who is stuck in a later round owes nothing in this one: the wait ends with a word from it.
      if (stuckAfter(now, next, member.waits_in)) return;
      if (next == me_ && member.waits_in < through_before_) return;
      led_on = true;
      if (seen.contains(next)) return;
      seen.insert(next);
      open.emplace_back(next, member.waits_in);
    });
    if (!led_on) roots.insert(rank);
  }
  return roots;
}

bool Members::stuckAfter(Time now, Rank rank, Seq seq) const {
  return saysItWaits(now, at(rank)) && at(rank).waits_in > seq;
}

std::optional<ContributorSet> Members::heldBy(Time now, Rank rank, Seq seq,
                                              const ContributorSet& late) const {
  const Member& member = at(rank);
  if (PAPILIO_MUTANT(waiting_excuses)) return std::nullopt;
  if (gone(rank) || !waits(now, rank, seq) || member.waits_in == seq) return std::nullopt;
  auto owing = member.waits_for & all();
  if (member.waits_in < through_before_) owing.erase(me_);
  if (owing.empty()) return std::nullopt;
  auto roots = rootsOf(now, owing, member.waits_in);
  roots.erase(rank);
  if (roots.empty()) return std::nullopt;
  ContributorSet out;
  roots.forEach([&](Rank root) {
    const bool troubled =
        root == me_ || late.contains(root) || doubted(root) || at(root).routed_around;
    if (troubled) out.insert(root);
  });
  return out;
}

void Members::startCatchUp(Time now, Rank rank, Duration patience) {
  Member& member = at(rank);
  if (member.pace != Member::Pace::late || member.catch_up_spent) return;
  member.pace = Member::Pace::catching_up;
  member.catch_up_until = now + patience;
  member.catch_up_spent = true;
}

void Members::recordLateness(Rank rank, Seq seq, Duration lag) {
  Member& member = at(rank);
  const Seq before = std::exchange(member.late_in, seq);
  const Duration lag_before = std::exchange(member.late_by, lag);
  const bool further = before.value != 0 && seq > before;
  learnLag(member, further
                       ? (lag - lag_before) / static_cast<std::int64_t>(seq.value - before.value)
                       : lag);
}

void Members::recordLag(Rank rank, Duration lag) {
  at(rank).late_in = Seq{};
  learnLag(at(rank), lag);
}

void Members::learnLag(Member& member, Duration lag) {
  member.lag_samples = std::min(member.lag_samples + 1, 8U);  // the mean of the first ones
  member.lag += (toSeconds(std::max(lag, Duration::zero())) - member.lag) / member.lag_samples;
}

}  // namespace papilio::fault
