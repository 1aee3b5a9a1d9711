// Members that do not answer: what this rank knows before it accuses one, how all of them go around
// a reducer, and how it comes back.
#include <algorithm>
#include <utility>

#include "fault/machine.hpp"
#include "fault/mutant.hpp"

namespace papilio::fault {

namespace {
constexpr std::uint64_t kReinstateMargin = 16;  // rounds, so that everybody hears of it before

std::string names(const ContributorSet& ranks) {
  std::string out;
  ranks.forEach([&](Rank rank) { out += (out.empty() ? "" : ", ") + std::to_string(rank.value); });
  return out;
}
}  // namespace

// When the next member of all rounds is late, or the next reducer overdue.
Time Machine::verdictAt() const {
  Time next = kNever;
  for (const Seq seq : live_) {
    const Round* round = find(seq);
    if (round == nullptr) continue;
    for (const auto& [schema, reduction] : round->variants) {
      next = std::min(next, reduction->due().verdict);
    }
    if (round->local && !round->finished) next = std::min(next, round->local->verdictAt());
  }
  return next;
}

// Half a budget before somebody is judged, all others are asked for a sign of life (protocol D4):
// the progress thread answers, whatever the rest of the process does.
Time Machine::probeAt(Time verdict) const {
  if (verdict == kNever) return kNever;
  const Duration budget = policy_.budget();
  return std::max(verdict - budget / 2, probed_ + budget / 4);
}

void Machine::probe(Time now) {
  if (now < probeAt(verdictAt())) return;
  probed_ = now;
  members_.present().forEach([&](Rank rank) {
    if (rank == members_.me()) return;
    members_.asked(now, rank);
    effects_.push_back(effect::Ping{rank});
  });
}

// Who hears nothing from most of the others is itself the one that is cut off, and for whom most of
// them became late in one incident is itself the one that is slow: it accuses nobody (protocol C6,
// D4). Said once, and once more when it is over.
bool Machine::isolated(Time now, Seq seq, const ContributorSet& late) {
  if (PAPILIO_MUTANT(isolated_accuses_nobody)) return false;
  const auto most = [&](const ContributorSet& ranks) {
    return ranks.count() >= 2 && ranks.count() * 2 > members_.present().count() - 1;
  };
  const Duration budget = policy_.budget();
  const auto silent = members_.silent(now, budget / 4);
  const auto behind = late | members_.lateSince(now - budget - policy_.patience());
  if (!most(silent) && !most(behind)) return false;
  if (!isolated_since_) {
    isolated_since_ = now - budget;
    const std::string what = most(silent) ? "no sign of life from ranks " + names(silent)
                                          : "ranks " + names(behind) + " are late for this one";
    notify(EventKind::isolated, members_.me(), Reason::unreachable, seq,
           what +
               ", most of the group; taking this rank for the one that is cut off or slow and "
               "blaming nobody: check the network and the load of this host");
  }
  return true;
}

void Machine::heard(Time now, Rank from) {
  members_.heard(from);
  if (!isolated_since_) return;
  const auto late = members_.lateSince(*isolated_since_);
  const auto out = members_.silent(now, Duration::zero()) | late;
  if (out.count() * 2 > members_.present().count() - 1) return;
  late.forEach([&](Rank rank) { members_.trustAgain(rank); });  // what they missed was not theirs
  opinions_changed_ = true;
  const Duration gap = now - *std::exchange(isolated_since_, std::nullopt);
  notify(EventKind::isolated, members_.me(), Reason::none, entered_,
         "in touch with most of the group again, after " + milliseconds(gap));
  paused(now, gap);  // their data may take longer to come through than their word
}

// Overdue. Before anybody is accused, others are asked for the results: they may have them.
void Machine::suspectReducer(Time now, Seq seq, Rank rank) {
  Round& round = rounds_.at(seq);
  const bool sick = now < suspect_self_until_ || isolated(now, seq, round.local->quiet(now));
  round.local->reducerFailed(now, rank, false, effects_);
  if (!sick) return round.local->suspect(rank);
  round.self_suspect = true;
  ContributorSet one;
  one.insert(rank);
  doubtSilently(now, one);
  round.local->excuse(rank);
}

void Machine::judgeReducers(Time now, Seq seq, Round& round) {
  const auto findings = round.local->takeFindings();
  findings.guilty.forEach(
      [&](Rank rank) { accuse(now, seq, rank, findings.confirmed.contains(rank)); });
  if (findings.cleared.empty()) return;
  findings.cleared.forEach([&](Rank rank) { round.local->excuse(rank); });
  doubtSilently(now, findings.cleared);
}

// Somebody else misses its results as well, or nobody can say, so all go around it.
void Machine::accuse(Time now, Seq seq, Rank rank, bool confirmed) {
  const Seq next{entered_.value + 1};
  const auto routed = members_.routeAround(rank, next);
  if (routed != Members::Routed::known) toOthers(msg::Suspect{rank, next, confirmed});
  if (members_.onlyReducer(next)) comeBack();
  const bool first = members_.at(rank).pace == Member::Pace::timely;
  // Also when somebody else said so before: this rank's own patience with it is spent all the same.
  if (routed != Members::Routed::news && !first) return;
  struck(now, seq, rank, first,
         "no result and no sign of progress for " +
             milliseconds(find(seq)->local->resultBudget(rank)));
  ++counters_.fetches;
}

void Machine::on(Time now, Rank from, const msg::Suspect& suspect) {
  const Rank target = suspect.target;
  if (target.value >= config_.size || members_.gone(target)) return;
  newest_ = std::max(newest_, Seq{suspect.seq.value - 1});
  const bool me = target == members_.me();
  if (!me && members_.doubted(from) && !PAPILIO_MUTANT(doubted_accuses_nobody)) return;
  if (me && members_.at(from).routed_around) {
    // The two have gone around each other, and nothing that this one gets would show that it is
    // back. That its word came does.
    // One word for all rounds until then: a new one in each round would put it off for ever.
    Seq& promised = members_.at(from).promised;
    if (promised <= newest_) promised = Seq{newest_.value + kReinstateMargin};
    return toControl(from, msg::Reinstate{promised});
  }
  // Two have spent their patience with it: who accuses it, and who confirmed that.
  const bool timely = members_.at(target).pace == Member::Pace::timely;
  const bool news = !me && suspect.confirmed && timely;
  if (news && !PAPILIO_MUTANT(suspects_are_not_waited_for)) {
    struck(now, suspect.seq, target, now >= suspect_self_until_,
           "rank " + std::to_string(from.value) + " and others get no results from it");
  }
  // Rounds that the target announced to reduce again, and that somebody had routed elsewhere before
  // that arrived, go to the stand-in as well.
  const Seq announced = members_.at(target).reinstated_from;
  const Seq begins = announced.value != 0 ? std::min(announced, suspect.seq) : suspect.seq;
  members_.routeAround(target, begins);
  const std::set<Seq> rounds = live_;
  for (const Seq seq : rounds) {
    Round* round = find(seq);
    if (seq < begins || round == nullptr || !round->local || round->finished) continue;
    ownDuties(now, seq, *round, round->local->redirect(now, target, effects_));
    if (me) withdrawRedirected(*round);
    pump(now, seq, *round);
  }
  pumpChanged(now);
}

// This rank was routed around and its contributions count again: it reduces again from a round on
// that nobody has entered yet.
void Machine::announceReturn(Seq counted) {
  const Member& self = members_.at(members_.me());
  if (PAPILIO_MUTANT(reinstate_announced)) return;
  if (!self.routed_around || self.reinstated_from.value != 0) return;
  // A result from before the incident proves nothing: after a freeze it is the first thing in the
  // mailbox, while the others are many rounds ahead.
  if (counted < self.routed_from || counted.value + kNearlyCurrent < newest_.value) return;
  comeBack();
}

// Also when it has gone around all others: no result of theirs will show that it counts again.
void Machine::comeBack() {
  const Member& self = members_.at(members_.me());
  if (!self.routed_around || self.reinstated_from.value != 0) return;
  const Seq from{newest_.value + kReinstateMargin};
  members_.reinstate(members_.me(), from);
  toOthers(msg::Reinstate{from});
}

void Machine::on(Time, Rank from, const msg::Reinstate& reinstate) {
  if (!members_.at(from).routed_around) return;
  if (reinstate.seq <= entered_) {
    // It did not know how far the others are: rounds from there on went to its stand-in already.
    const Seq next{entered_.value + 1};
    members_.routeAround(from, next);
    toOthers(msg::Suspect{from, next});
    return;
  }
  members_.reinstate(from, reinstate.seq);
}

}  // namespace papilio::fault
