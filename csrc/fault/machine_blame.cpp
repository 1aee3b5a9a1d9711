// Who waits for whom, and who is to blame for it: what this rank says of itself and of others.
#include "fault/machine.hpp"

#include "fault/mutant.hpp"

namespace papilio::fault {

// Who is to blame that some are not in a result of this rank. Only the reducer knows: it closed the
// chunk. Whoever waits for others is not to blame, they are; this goes for this rank itself.
void Machine::blameForAbsent(Time now, const Round& round, Reduction& reduction, Seq seq,
                             ChunkIndex chunk) const {
  if (PAPILIO_MUTANT(result_says_who_is_to_blame)) return;
  const Rank me = members_.me();
  // A stand-in by somebody else's opinion only: the others went to another reducer.
  const bool duty = members_.reducerFor(reduction.layout().owner(chunk), seq) == me;
  const bool sure = members_.reducesForSure(reduction.layout().owner(chunk));
  const bool judge = sure && !round.self_suspect && now >= suspect_self_until_;
  ContributorSet out;
  bool refused = false;
  reduction.result(chunk)->absent.forEach([&](Rank rank) {
    if (members_.refusedBy(rank)) {
      refused = true;
    } else if (rank != me && !members_.counts(rank)) {
      out.insert(rank);
    } else if (reduction.result(chunk)->spoken_for.contains(rank)) {
      return;  // its host knows why, or it said itself that it has no part in it
    } else if (rank == me || members_.at(rank).held) {
      if (duty) out = out | (rank == me ? heldUpBy(now, seq) : members_.at(rank).held_by);
    } else if (judge) {
      out.insert(rank);
    }
  });
  if (out.contains(me)) {  // it held others up, and may itself be held up
    out.erase(me);
    out = out | heldUpBy(now, seq);
  }
  if (refused) out.insert(me);  // they are missing because this rank is out
  reduction.blame(chunk, out, mismatchedIn(round, reduction, chunk), !duty);
}

// Who is not in a result because of its model: this rank itself, perhaps, which averages for the
// others what it has no part in.
ContributorSet Machine::mismatchedIn(const Round& round, const Reduction& reduction,
                                     ChunkIndex chunk) const {
  ContributorSet out = votedOtherwise(round, reduction.schema()) | reduction.mismatched();
  members_.all().forEach([&](Rank rank) {
    if (members_.goneReason(rank) == Reason::schema) out.insert(rank);
  });
  return (out & members_.all()) - reduction.result(chunk)->contributors;
}

// Who is to blame that this rank can not enter a round: whom it doubts and waits for in an earlier
// one, or has waited for since it fell behind; nobody that it held up itself. Nobody at all as long
// as it waits for those that it does not doubt yet. Otherwise it is to blame itself: back from a
// freeze it waits for everybody.
ContributorSet Machine::heldUpBy(Time now, Seq seq) const {
  const Member& self = members_.at(members_.me());
  bool held = self.pace != Member::Pace::timely && self.held;
  ContributorSet out = held ? self.held_by : ContributorSet{};
  const Seq stuck = oldestActive();
  const Round* waits = find(stuck);
  if (out.empty() && stuck <= seq && waits != nullptr && !waits->finished) {
    const bool sick = waits->self_suspect || now < suspect_self_until_;
    members_.rootsOf(now, waitedFor(*waits), stuck).forEach([&](Rank root) {
      if (root == members_.me() || members_.at(root).held_by.contains(members_.me())) return;
      held = held || !sick;
      if (members_.doubted(root)) out.insert(root);
    });
  }
  if (out.empty() && combining_ && *combining_ <= seq && stuck > entered_) {
    held = true;  // others of its host have not come to what they combine first
    members_.hostOf(members_.me()).forEach([&](Rank mate) {
      if (mate != members_.me() && members_.doubted(mate)) out.insert(mate);
    });
  }
  out.erase(members_.me());
  if (out.empty() && !held) out.insert(members_.me());
  return out;
}

// Whom everybody waits for in the end, as far as this rank has heard.
ContributorSet Machine::toBlame(Time now, Seq seq, const Round& round) const {
  const auto waits = waitedFor(round);
  auto roots = members_.rootsOf(now, waits, seq);
  roots.erase(members_.me());
  return roots.empty() ? waits : roots;
}

// Whom the local rank waits for in a round that it has entered.
ContributorSet Machine::waitedFor(const Round& round) const {
  ContributorSet out;
  if (round.strict) {
    out = round.strict->owing();
  } else if (round.local) {
    if (voteOpen(round)) out = members_.present() - round.votes.voters();
    out = out | round.local->stuckAt();
    if (out.contains(members_.me())) {
      const auto it = round.variants.find(round.local->schema());
      if (it != round.variants.end()) out = out | it->second->waitingFor();
    }
  }
  out.erase(members_.me());
  return out;
}

// Somebody waits for this rank in a round that it can not enter, because it waits for others in an
// earlier one itself. Everybody hears who they are: every report will have to name somebody.
void Machine::sayHeld(Time now, Seq asked) {
  if (asked <= entered_) return;
  const Seq stuck = oldestActive();
  const Round* round = find(stuck);
  if (combining_ && stuck > entered_) return sayCombines(now);
  if (round == nullptr || round->finished) return;
  sayWaits(now, stuck, *round);
}

// It is through with all rounds before, and waits for its host.
void Machine::sayCombines(Time now) {
  if (now < held_said_ + Reduction::kProgressEvery / 2 || combining_->value < 2) return;
  auto mates = members_.hostOf(members_.me()) & members_.present();
  mates.erase(members_.me());
  if (mates.empty()) return;
  held_said_ = now;
  toOthers(msg::Progress{Seq{combining_->value - 1}, mates});
}

void Machine::sayWaits(Time now, Seq seq, const Round& round) {
  if (now < held_said_ + Reduction::kProgressEvery / 2) return;
  auto roots = members_.rootsOf(now, waitedFor(round), seq);
  roots.erase(members_.me());
  if (roots.empty()) return;
  held_said_ = now;
  said_waits_.insert(seq);
  toOthers(msg::Progress{seq, roots});
}

}  // namespace papilio::fault
