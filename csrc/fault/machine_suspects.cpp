// Members that do not answer: what this rank knows before it accuses one, how all of them go around
// a reducer, and how it comes back.
#include <algorithm>

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

// Who hears nothing from most of the others is itself the one that is cut off, and accuses nobody
// (protocol C6, D4). Said once, and once more when they are heard again.
bool Machine::cutOff(Time now, Seq seq) {
  if (PAPILIO_MUTANT(cut_off_accuses_nobody)) return false;
  const auto silent = members_.silent(now, policy_.budget() / 4);
  const bool is = silent.count() >= 2 && silent.count() * 2 > members_.present().count() - 1;
  if (is && !cut_off_) {
    notify(EventKind::isolated, members_.me(), Reason::unreachable, seq,
           "no sign of life from ranks " + names(silent) +
               ", most of the group; taking this rank for the one that is cut off and blaming "
               "nobody: check the network of this host");
  }
  if (is) {
    cut_off_ = true;
    silent.forEach(
        [&](Rank rank) { cut_off_since_ = std::min(cut_off_since_, members_.at(rank).asked); });
  }
  return is;
}

void Machine::heard(Time now, Rank from) {
  members_.heard(from);
  if (!cut_off_) return;
  const auto silent = members_.silent(now, Duration::zero());
  if (silent.count() * 2 > members_.present().count() - 1) return;
  const Duration gap = now - cut_off_since_;
  cut_off_ = false;
  cut_off_since_ = kNever;
  notify(EventKind::isolated, members_.me(), Reason::none, entered_,
         "the others are heard again, after at least " + milliseconds(gap));
  paused(now, gap);  // their data may take longer to come through than their word
}

void Machine::suspectReducer(Time now, Seq seq, Rank rank) {
  Round& round = rounds_.at(seq);
  if (now < suspect_self_until_ || cutOff(now, seq)) {
    round.self_suspect = true;
    ContributorSet one;
    one.insert(rank);
    doubtSilently(one);
    return round.local->reducerFailed(now, rank, false, effects_);
  }
  const Seq next{entered_.value + 1};
  const auto routed = members_.routeAround(rank, next);
  if (routed != Members::Routed::known) toOthers(msg::Suspect{rank, next});
  const bool first = members_.at(rank).pace == Member::Pace::timely;
  // Also when somebody else said so before: this rank's own patience with it is spent all the same.
  if (routed == Members::Routed::news || first) {
    struck(
        now, seq, rank, first,
        "no result and no sign of progress for " + milliseconds(round.local->resultBudget(rank)));
    ++counters_.fetches;
  }
  round.local->reducerFailed(now, rank, false, effects_);
}

void Machine::on(Time now, Rank from, const msg::Suspect& suspect) {
  const Rank target = suspect.target;
  if (target.value >= config_.size || members_.gone(target)) return;
  newest_ = std::max(newest_, Seq{suspect.seq.value - 1});
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
    if (target == members_.me()) withdrawRedirected(*round);
    pump(now, seq, *round);
  }
  // Each of the two has gone around the other, so neither gets anything that would show that it is
  // back: that this came does.
  if (target == members_.me() && members_.at(from).routed_around) sayReturn();
}

// This rank was routed around and its contributions count again: it reduces again from a round on
// that nobody has entered yet.
void Machine::announceReturn(Seq counted) {
  const Member& self = members_.at(members_.me());
  // A result from before the incident proves nothing: after a freeze it is the first thing in the
  // mailbox, while the others are many rounds ahead.
  if (counted < self.routed_from || counted.value + kNearlyCurrent < newest_.value) return;
  sayReturn();
}

void Machine::sayReturn() {
  const Member& self = members_.at(members_.me());
  if (PAPILIO_MUTANT(reinstate_announced)) return;
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
