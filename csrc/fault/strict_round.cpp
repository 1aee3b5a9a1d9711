#include "fault/strict_round.hpp"

#include <string>

#include "fault/mutant.hpp"

namespace papilio::fault {

std::string listed(const ContributorSet& ranks) {
  std::string out;
  ranks.forEach([&](Rank rank) {
    if (!out.empty()) out += ", ";
    out += std::to_string(rank.value);
  });
  return out;
}

StrictRound::StrictRound(const Members& members, Seq seq, SchemaHash schema, StrictSpec spec,
                         Time deadline)
    : members_(members), seq_(seq), schema_(schema), spec_(std::move(spec)), deadline_(deadline) {
  taking_part_ = members_.present();
  counted_on_ = taking_part_;
  entered_.insert(members_.me());
  unsent_.resize(spec_.phases.size());
  for (const auto& phase : spec_.phases) {
    auto& got = got_.emplace_back();
    auto& left = left_.emplace_back();
    for (std::uint32_t r = 0; r < members_.size(); ++r) {
      const bool counts = taking_part_.contains(Rank{r}) && Rank{r} != members_.me();
      left.push_back(counts ? phase[r].recv_blocks : 0);
      got.emplace_back(left.back(), false);
    }
  }
}

void StrictRound::start(Effects& out) {
  const ContributorSet needed = spec_.needs_all ? members_.slots() : spec_.needed;
  const ContributorSet missing = needed - taking_part_;
  if (!missing.empty()) {
    const Rank first = missing.ranks().front();
    RoundError error{ErrorKind::peer_failed, missing, members_.goneReason(first), {}, {}, {}};
    error.text = "rank " + listed(missing) + " is gone (" + name(error.reason) +
                 ") and its data is needed; this collective can not finish without it";
    fail(std::move(error), out);
    return;
  }
  announceEntry(out);
  advance(out);
}

void StrictRound::announceEntry(Effects& out) {
  taking_part_.forEach([&](Rank to) {
    if (to != members_.me()) {
      out.push_back(effect::SendControl{to, msg::Enter{seq_, spec_.shape, counted_on_}});
    }
  });
}

// Members hear of a death one after the other. A sum over one set and a sum over another are two
// values, and shards laid over them do not fit: who misses a rank that a peer counts on fails the
// collective because of it, and that peer, which may not know why yet, hears it from that failure.
bool StrictRound::agreesOnMembers(const ContributorSet& members, Effects& out) {
  if (PAPILIO_MUTANT(strict_members_agree)) return true;
  if (spec_.shape.kind != OpKind::allreduce || members == counted_on_) return true;
  const ContributorSet missed = (members & members_.all()) - counted_on_;
  if (!missed.empty()) {
    const Rank first = missed.ranks().front();
    failBecauseOf(first, members_.goneReason(first), out);
  }
  return false;
}

void StrictRound::peerEntered(Rank from, const ContributorSet& members, Effects& out) {
  if (ended_ || !taking_part_.contains(from) || entered_.contains(from)) return;
  if (!agreesOnMembers(members, out)) return;
  entered_.insert(from);
  // It has buffers for this collective now: everything launched so far may go to it.
  for (std::uint16_t p = 0; p < launched_; ++p) {
    if (!spec_.phases[p][from.value].sends) continue;
    unsent_[p].insert(from);
    out.push_back(effect::SendBlocks{from, seq_, p});
  }
  advance(out);
}

void StrictRound::launchPhase(Effects& out) {
  const std::uint16_t p = launched_++;
  (entered_ & taking_part_).forEach([&](Rank to) {
    if (to == members_.me() || !spec_.phases[p][to.value].sends) return;
    unsent_[p].insert(to);
    out.push_back(effect::SendBlocks{to, seq_, p});
  });
}

bool StrictRound::wantsBlock(Rank from, std::uint16_t phase, std::uint32_t index) const {
  return !ended_ && phase < got_.size() && from.value < got_[phase].size() &&
         index < got_[phase][from.value].size() && !got_[phase][from.value][index];
}

void StrictRound::blockPlaced(Rank from, std::uint16_t phase, std::uint32_t index, Effects& out) {
  if (!wantsBlock(from, phase, index)) return;
  got_[phase][from.value][index] = true;
  --left_[phase][from.value];
  advance(out);
}

void StrictRound::blocksPosted(Rank to, std::uint16_t phase, Effects& out) {
  if (ended_) return;
  unsent_[phase].erase(to);
  advance(out);
}

void StrictRound::advance(Effects& out) {
  while (!ended_) {
    if (phase_ < spec_.phases.size()) {
      if (launched_ == phase_) launchPhase(out);
      for (const auto left : left_[phase_]) {
        if (left != 0) return;
      }
      if (entered_ != taking_part_) return;
      out.push_back(effect::RunPhase{seq_, phase_, taking_part_ | gave_});
      ++phase_;
      continue;
    }
    if (entered_ != taking_part_) return;
    for (const auto& unsent : unsent_) {
      if (!unsent.empty()) return;
    }
    finish({}, out);
  }
}

ContributorSet StrictRound::owing() const {
  ContributorSet out = taking_part_ - entered_;
  for (const auto& phase : left_) {
    for (std::uint32_t r = 0; r < phase.size(); ++r) {
      if (phase[r] != 0) out.insert(Rank{r});
    }
  }
  for (const auto& unsent : unsent_) out = out | unsent;
  return out;
}

void StrictRound::peerGone(Rank rank, Reason reason, Effects& out) {
  if (ended_ || !taking_part_.contains(rank)) return;
  const bool owes = owing().contains(rank);
  bool only_sends = entered_.contains(rank);
  for (const auto& phase : left_) only_sends = only_sends && phase[rank.value] == 0;
  for (auto& unsent : unsent_) unsent.erase(rank);
  // A barrier carries no data, and a rank that gave all it had owes nothing: go on without it.
  if (spec_.shape.kind == OpKind::barrier || !owes || only_sends) {
    if (spec_.shape.kind != OpKind::barrier && entered_.contains(rank)) gave_.insert(rank);
    taking_part_.erase(rank);
    entered_.erase(rank);
    advance(out);
    return;
  }
  failBecauseOf(rank, reason, out);
}

void StrictRound::failBecauseOf(Rank rank, Reason reason, Effects& out) {
  ContributorSet culprit;
  culprit.insert(rank);
  RoundError error{ErrorKind::peer_failed, culprit, reason, {}, {}, {}};
  error.text = "rank " + listed(culprit) + " is gone (" + name(reason) +
               ") and had not given its part; the next collective runs without it";
  fail(std::move(error), out);
}

void StrictRound::peerFailedIt(Rank from, const msg::StrictFailed& failure, Effects& out) {
  if (ended_ || !taking_part_.contains(from)) return;
  ContributorSet culprits = failure.culprits & members_.all();
  const auto reason = static_cast<Reason>(failure.reason);
  const bool because_of_me = culprits.contains(members_.me());
  // With a connection broken between two live members, the one that failed it can not tell the
  // other.
  ContributorSet untold = culprits & taking_part_ & members_.present();
  untold.erase(from);
  untold.forEach([&](Rank to) {
    if (to != members_.me()) out.push_back(effect::SendControl{to, failure});
  });
  const std::string who = "rank " + std::to_string(from.value);
  if (because_of_me) {
    const bool out_for_good = reason == Reason::schema;
    RoundError error{
        out_for_good ? ErrorKind::evicted : ErrorKind::peer_failed, {}, reason, {}, {}, {}};
    error.ranks.insert(from);
    error.text = who + " gave this collective up because of this rank (" + name(reason) + ")" +
                 (out_for_good ? "; restart it with the right model" : "");
    self_suspect_ = true;
    return finish(std::move(error), out);
  }
  if (culprits.empty()) culprits.insert(from);
  RoundError error{ErrorKind::peer_failed, culprits, reason, {}, {}, {}};
  ContributorSet itself;
  itself.insert(from);
  if (culprits == itself && reason == Reason::none) {
    error.text = who + " ended this collective for itself (abort, timeout or leaving)";
  } else if (culprits == itself && reason == Reason::schema) {
    error.text = who + " called another collective than most members: this rank has " +
                 describe(spec_.shape);
  } else {
    error.text = who + " gave this collective up because of rank " + listed(culprits) + " (" +
                 name(reason) + ")";
  }
  finish(std::move(error), out);
}

void StrictRound::fail(RoundError error, Effects& out) {
  if (ended_) return;
  const auto failure = failureOf(error);
  // The culprits too, if they can hear it: they must not wait for this rank.
  (taking_part_ & members_.present()).forEach([&](Rank to) {
    if (PAPILIO_MUTANT(strict_failure_told)) return;
    if (to != members_.me()) out.push_back(effect::SendControl{to, failure});
  });
  finish(std::move(error), out);
}

void StrictRound::failByItself(RoundError error, Effects& out) {
  if (ended_) return;
  self_suspect_ = true;
  fail(std::move(error), out);
}

msg::StrictFailed StrictRound::failureOf(const RoundError& error) const {
  ContributorSet culprits = error.ranks;
  if (self_suspect_) culprits = {};
  if (culprits.empty()) culprits.insert(members_.me());
  return {seq_, culprits, static_cast<std::uint8_t>(error.reason)};
}

void StrictRound::finish(RoundError error, Effects& out) {
  ended_ = true;
  if (error) failure_ = failureOf(error);
  Report report;
  report.shape = spec_.shape;
  report.seq = seq_;
  report.nbytes = spec_.nbytes;
  const auto missing = members_.all() - taking_part_ - gave_;
  report.outcome = missing.empty() && !error ? Outcome::complete : Outcome::degraded;
  if (!error) {
    const ContributorSet who = contributors();
    report.chunks.push_back(
        {0, spec_.shape.numel, source(), who, static_cast<double>(who.count())});
  }
  report.self_suspect = self_suspect_;
  (self_suspect_ ? missing : missing | error.ranks).forEach([&](Rank rank) {
    if (rank == members_.me()) return;
    const bool named = error.ranks.contains(rank) && error.reason != Reason::none;
    const auto quit = quit_.find(rank);
    report.blamed.emplace(rank, named                 ? error.reason
                                : quit != quit_.end() ? quit->second
                                                      : members_.blameFor(rank));
  });
  out.push_back(effect::Finish{seq_, std::move(report), std::move(error)});
}

}  // namespace papilio::fault
