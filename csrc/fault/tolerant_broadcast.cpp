#include "fault/tolerant_broadcast.hpp"

#include <algorithm>

#include "fault/mutant.hpp"

namespace papilio::fault {

TolerantBroadcast::TolerantBroadcast(const Members& members, Seq seq, SchemaHash schema,
                                     StrictSpec spec, Time deadline)
    : StrictRound(members, seq, schema, std::move(spec), deadline), origin_(root()) {
  // Of an empty tensor everybody has everything.
  if (members_.me() == root() || spec_.nbytes == 0) {
    holders_.insert(members_.me());
  } else if (taking_part_.contains(root())) {
    expectFrom(root());
  }
}

void TolerantBroadcast::start(Effects& out) {
  announceEntry(out);
  advance(out);
}

ContributorSet TolerantBroadcast::others() const {
  ContributorSet out = taking_part_;
  out.erase(members_.me());
  return out;
}

void TolerantBroadcast::tell(Rank to, Holding holding, Effects& out) const {
  ContributorSet ranks;
  if (holding == Holding::has) ranks.insert(origin_);
  if (holding == Holding::lacks) ranks = dropped();
  out.push_back(effect::SendControl{to, msg::Handover{seq_, holding, ranks}});
}

// Who has not entered yet hears it when it does.
void TolerantBroadcast::tellOthers(Holding holding, Effects& out) const {
  (others() & entered_).forEach([&](Rank to) { tell(to, holding, out); });
}

void TolerantBroadcast::peerEntered(Rank from, const ContributorSet&, Effects& out) {
  if (ended_ || !taking_part_.contains(from) || entered_.contains(from)) return;
  entered_.insert(from);
  if (members_.me() == root()) serve(from, out);
  if (has()) {
    tell(from, Holding::has, out);
  } else if (!giver_) {
    tell(from, Holding::lacks, out);
  }
  advance(out);
}

void TolerantBroadcast::serve(Rank to, Effects& out) {
  if (spec_.nbytes == 0 || served_.contains(to)) return;
  served_.insert(to);
  const bool own = origin_ == members_.me() && members_.me() != root();
  const std::uint16_t phase = own ? kOwn : kReceived;
  unsent_[phase].insert(to);
  out.push_back(effect::SendBlocks{to, seq_, phase});
}

void TolerantBroadcast::handover(Rank from, const msg::Handover& message, Effects& out) {
  if (ended_ || !others().contains(from)) return;
  switch (message.holding) {
    case Holding::has:
      lacking_.erase(from);
      holders_.insert(from);
      origin_of_[from] = message.ranks.ranks().front();
      break;
    case Holding::lacks: lacking_[from] = message.ranks; break;
    case Holding::wants:
      if (has()) serve(from, out);
      break;
  }
  advance(out);
}

void TolerantBroadcast::expectFrom(std::optional<Rank> giver) {
  giver_ = giver;
  left_ = giver ? spec_.phases[kReceived][giver->value].recv_blocks : 0;
  got_.assign(left_, false);
}

bool TolerantBroadcast::wantsBlock(Rank from, std::uint16_t phase, std::uint32_t index) const {
  return !ended_ && !has() && giver_ == from && phase <= kOwn && index < got_.size() &&
         !got_[index];
}

void TolerantBroadcast::blockPlaced(Rank from, std::uint16_t phase, std::uint32_t index,
                                    Effects& out) {
  if (!wantsBlock(from, phase, index)) return;
  got_[index] = true;
  if (--left_ == 0) gotIt(out);
  advance(out);
}

void TolerantBroadcast::gotIt(Effects& out) {
  holders_.insert(members_.me());
  tellOthers(Holding::has, out);
}

void TolerantBroadcast::lookForGiver(Effects& out) {
  const ContributorSet holders = holders_ & taking_part_;
  if (!holders.empty()) {
    const Rank giver = holders.ranks().front();
    origin_ = origin_of_.at(giver);
    expectFrom(giver);
    tell(giver, Holding::wants, out);
  } else if (mayStandIn()) {
    origin_ = members_.me();
    gotIt(out);
  }
}

bool TolerantBroadcast::mayStandIn() const {
  if (taking_part_.ranks().front() != members_.me() || entered_ != taking_part_) return false;
  const auto ranks = others().ranks();
  if (PAPILIO_MUTANT(stand_in_needs_lacks)) return true;
  return std::all_of(ranks.begin(), ranks.end(), [&](Rank rank) {
    const auto it = lacking_.find(rank);
    return it != lacking_.end() && (dropped() - it->second).empty();
  });
}

void TolerantBroadcast::advance(Effects& out) {
  if (ended_) return;
  if (!has() && !giver_) lookForGiver(out);
  const bool all_have = (taking_part_ - holders_).empty() || PAPILIO_MUTANT(all_have_it);
  if (!has() || entered_ != taking_part_ || !all_have) return;
  for (const auto& unsent : unsent_) {
    if (!unsent.empty()) return;
  }
  // Not before everybody has it: an error leaves the tensor as it was.
  if (origin_ != members_.me() && spec_.nbytes != 0) {
    out.push_back(effect::RunPhase{seq_, kReceived, taking_part_});
  }
  finish({}, out);
}

// While members do not agree on who is gone nobody may stand in: it is due to these, not to those
// who wait for them.
ContributorSet TolerantBroadcast::disagreeing() const {
  ContributorSet out;
  for (const auto& [rank, lost] : lacking_) {
    const auto more = lost - dropped();
    out = out | more | (dropped() - lost);
    if (!more.empty()) out.insert(rank);
  }
  return out;
}

ContributorSet TolerantBroadcast::owing() const {
  ContributorSet out = taking_part_ - entered_;
  if (has()) {
    out = out | (taking_part_ - holders_);
  } else if (giver_) {
    out.insert(*giver_);
  } else {
    const auto split = disagreeing();
    out = split.empty() ? out | others() : split;
  }
  for (const auto& unsent : unsent_) out = out | unsent;
  return out;
}

void TolerantBroadcast::peerGone(Rank rank, Reason, Effects& out) {
  if (ended_ || !taking_part_.contains(rank)) return;
  taking_part_.erase(rank);
  entered_.erase(rank);
  holders_.erase(rank);
  lacking_.erase(rank);
  for (auto& unsent : unsent_) unsent.erase(rank);
  if (!has()) {
    if (giver_ == rank) expectFrom(std::nullopt);
    if (!giver_) tellOthers(Holding::lacks, out);
  }
  advance(out);
}

void TolerantBroadcast::peerFailedIt(Rank from, const msg::StrictFailed& failure, Effects& out) {
  if (ended_ || !taking_part_.contains(from)) return;
  ContributorSet only;
  only.insert(from);
  const ContributorSet culprits = failure.culprits & members_.all();
  if (culprits.empty() || culprits == only) {
    const auto reason = static_cast<Reason>(failure.reason);
    quit_[from] = reason == Reason::none ? Reason::left : reason;
    return peerGone(from, quit_[from], out);
  }
  // Whoever sent it may not have reached everybody, and nobody is to wait for this rank.
  const msg::StrictFailed relayed{seq_, culprits, failure.reason};
  (others() & members_.present()).forEach([&](Rank to) {
    if (to != from) out.push_back(effect::SendControl{to, relayed});
  });
  StrictRound::peerFailedIt(from, failure, out);
}

std::optional<Rank> TolerantBroadcast::standIn() const {
  if (!has() || origin_ == root()) return std::nullopt;
  return origin_;
}

Source TolerantBroadcast::source() const {
  if (origin_ != root()) return Source::redone;
  return giver_ && *giver_ != root() ? Source::fetched : Source::reduced;
}

// Whose tensor it is: with a stand-in that is one rank, else it is the root's, which all took part
// in handing on.
ContributorSet TolerantBroadcast::contributors() const {
  if (origin_ == root()) return taking_part_;
  ContributorSet out;
  out.insert(origin_);
  return out;
}

}  // namespace papilio::fault
