// Rounds in which the ranks of a host have combined their data before (ADR 12).
#include "fault/machine.hpp"
#include "fault/mutant.hpp"

namespace papilio::fault {

// A leader speaks for ranks of its own host only, and always for itself.
bool Machine::plausible(Rank from, const DataHeader& header) const {
  if ((header.flags & kOfHost) == 0) return true;
  if (!((header.contributors | header.blamed) - members_.hostOf(from)).empty()) return false;
  if ((header.flags & kListens) != 0) return header.contributors.empty();
  return header.contributors.contains(from);
}

// Does its data count here? One that the user has banned, or that trains another model, is not let
// in by its leader. One that is only slow was in time this once. And whom this rank itself has
// combined its data with is not turned away any more.
bool Machine::welcome(const DataHeader& header) const {
  if ((header.flags & kOfHost) == 0) return true;
  bool out = true;
  header.contributors.forEach([&](Rank rank) {
    const auto* entry = members_.blacklist().find(rank);
    const bool banned = entry != nullptr && entry->reason != Reason::slow;
    if (banned && !members_.near(rank)) out = false;
  });
  return out;
}

// A result from this host for a round that the local rank is about to enter: others of the host
// were through with what they combine a moment earlier.
bool Machine::early(Rank from, const DataHeader& header) const {
  return members_.near(from) && !members_.gone(from) && header.view == config_.view &&
         header.seq > entered_ && header.seq.value <= entered_.value + kNearlyCurrent * 64 &&
         header.seq >= forgotten_before_;
}

// Its data was to come with that of another one of its host, which is in trouble itself. One that
// this rank alone can not reach leads on.
std::optional<ContributorSet> Machine::heldByLeader(Rank rank, const ContributorSet& late) const {
  std::optional<ContributorSet> out;
  members_.hostOf(rank).forEach([&](Rank leader) {
    const Reason gone = members_.goneReason(leader);
    if (out || leader >= rank || (gone != Reason::none && gone != Reason::unreachable)) return;
    if (late.contains(leader) || members_.doubted(leader)) out.emplace().insert(leader);
  });
  return out;
}

Admission Machine::listen(Time now, Rank from, const DataHeader& header, Round& round,
                          Reduction& reduction) {
  noteLateness(now, from, header.seq, reduction);
  if (reduction.result(header.chunk) != nullptr) {
    lateContribution(now, from, header);
    sendLate(from, header);
  } else if (round.finished && !reduction.collecting(header.chunk)) {
    toControl(from, msg::None{header.seq, {header.chunk.value, header.chunk.value + 1}});
  } else {
    giveChunk(now, from, header, reduction);
    if (header.attempt > 0) passOn(round, header);
  }
  pump(now, header.seq, round);
  return Admission::drop;
}

// Who combines its data with others has seen that they have the same schema.
void Machine::voteForHost(Rank from, const DataHeader& header, Round& round) const {
  if ((header.flags & kOfHost) == 0) return;
  header.contributors.forEach([&](Rank rank) {
    if (rank != from && rank != members_.me()) round.votes.add(rank, header.schema, header.shape);
  });
}

// The chunk has what `from` (perhaps this rank itself) gives to it: data, its own or that of its
// host, or only the wish to have the result.
void Machine::giveChunk(Time now, Rank from, const DataHeader& header, Reduction& reduction) {
  const bool of_host = (header.flags & kOfHost) != 0;
  if ((header.flags & kListens) != 0 || !welcome(header)) {
    ContributorSet silent;
    silent.insert(from);
    reduction.listens(of_host ? members_.hostOf(from) : silent, header.chunk);
    return reduction.showed(now, from);
  }
  if (!of_host) {
    if (from != members_.me()) counted(from, reduction);
    return reduction.arrived(now, from, header.chunk, header.weight);
  }
  header.contributors.forEach([&](Rank rank) {
    if (rank != members_.me()) counted(rank, reduction);
  });
  const Reduction::Share share{header.contributors, members_.hostOf(from), header.blamed};
  reduction.arrived(now, from, header.chunk, header.weight, &share);
}

void Machine::leaderFailed(Time now, Seq seq, Round& round, Rank leader) {
  if (!round.local || round.finished) return;
  ownDuties(now, seq, round, round.local->leaderFailed(now, leader, effects_));
}

DataHeader Machine::relayHeader(Seq seq, ChunkIndex chunk) const {
  DataHeader header = heldHeader(seq, chunk);
  header.flags = static_cast<std::uint16_t>((header.flags & ~kFetched) | kRelayed);
  return header;
}

DataHeader Machine::contributionHeader(Seq seq, ChunkIndex chunk) const {
  const Round* round = find(seq);
  if (round == nullptr || !round->local) return {};
  return round->local->contributionHeader(chunk);
}

}  // namespace papilio::fault
