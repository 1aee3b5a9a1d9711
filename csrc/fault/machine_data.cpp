// Data messages: every check before any bookkeeping (protocol A3).
#include <algorithm>
#include <cmath>

#include "fault/machine.hpp"
#include "fault/mutant.hpp"

namespace papilio::fault {

namespace {
// Rounds a peer may be ahead of this rank; further ahead is nobody who plays by the rules.
constexpr std::uint64_t kWindow = 1ULL << 16;
constexpr std::uint64_t kMaxTensorBytes = 1ULL << 44;
}  // namespace

Reduction& Machine::variant(Time, Seq seq, Round& round, SchemaHash schema,
                            const RoundShape& shape) {
  auto& slot = round.variants[schema];
  if (!slot) slot = std::make_unique<Reduction>(members_, policy_, seq, schema, shape);
  return *slot;
}

bool Machine::inWindow(Rank from, Seq seq) {
  if (seq.value > entered_.value + kWindow || seq.value == 0) {
    ++counters_.dropped_unexpected;
    return false;
  }
  if (seq >= forgotten_before_ || PAPILIO_MUTANT(stale_dropped)) return true;
  ++counters_.dropped_stale;
  toControl(from, msg::Nack{seq, NackCode::stale, {}, forgotten_before_, {}, {}});
  return false;
}

bool Machine::givenUp(Rank from, Seq seq) {
  const Round* round = find(seq);
  if (round == nullptr || !round->given_up) return false;
  ++counters_.dropped_stale;
  toControl(from, msg::Nack{seq, NackCode::stale, {}, Seq{seq.value + 1}, {}, {}});
  return true;
}

bool Machine::sane(const DataHeader& header) const {
  const RoundShape& shape = header.shape;
  const std::size_t size = elementSize(shape.dtype);
  return header.view == config_.view && shape.kind == OpKind::allreduce && !shape.strict &&
         size != 0 && isFloating(shape.dtype) && shape.numel > 0 &&
         shape.numel <= kMaxTensorBytes / size && std::isfinite(header.weight) &&
         header.weight >= 0 && schemaOf(shape, config_.group, config_.view) == header.schema;
}

Admission Machine::judge(Time now, Rank from, const DataHeader& header) {
  heard(now, from);
  switch (header.type) {
    case MessageType::contribution: return judgeContribution(now, from, header);
    case MessageType::result:
      members_.at(from).reducer_life = now;
      return judgeResult(from, header);
    case MessageType::block: return judgeBlock(from, header);
    case MessageType::piece: break;  // not for this machine
  }
  return Admission::drop;
}

Admission Machine::judgeContribution(Time now, Rank from, const DataHeader& header) {
  if (!sane(header) || !plausible(from, header)) {
    ++counters_.dropped_malformed;
    return Admission::drop;
  }
  if (!inWindow(from, header.seq) || givenUp(from, header.seq)) {
    lateContribution(now, from, header);
    return Admission::drop;
  }
  newest_ = std::max(newest_, header.seq);
  Round& round = rounds_[header.seq];
  round.votes.add(from, header.schema, header.shape);
  voteForHost(from, header, round);
  if (round.my_schema == header.schema) {
    evicted_by_.erase(from);
    members_.at(from).refuses = false;
  }
  const bool differs = (round.my_schema && *round.my_schema != header.schema) ||
                       (round.winner && *round.winner != header.schema);
  if (members_.gone(from) || differs) {
    ++counters_.dropped_schema;
    if (differs) {
      tellSchema(header.seq, round, from);
    } else if (members_.goneReason(from) == Reason::schema && !round.nacked.contains(from)) {
      round.nacked.insert(from);
      toControl(from, msg::Nack{header.seq, NackCode::evicted, {}, {}, {}, {}});
    }
    if (round.strict) {
      strictMismatch(now, header.seq, round);
    } else {
      resolveSchema(now, header.seq, round, false);
    }
    pump(now, header.seq, round);
    return Admission::drop;
  }
  if (round.votes.contested()) resolveSchema(now, header.seq, round, false);
  if (round.winner && *round.winner != header.schema) return Admission::drop;
  Reduction& reduction = variant(now, header.seq, round, header.schema, header.shape);
  const Layout& layout = reduction.layout();
  const bool listens = (header.flags & kListens) != 0;
  if (header.chunk.value >= layout.chunkCount() ||
      header.payload_bytes != (listens ? 0 : layout.payload(header.chunk)) ||
      (layout.owner(header.chunk).value + header.attempt) % config_.size != members_.me().value) {
    ++counters_.dropped_malformed;
    return Admission::drop;
  }
  const bool for_others = header.contributors.count() > 1;
  if (!(for_others ? members_.speaksHere(from) : members_.counts(from))) {
    ++counters_.dropped_blacklisted;
    noteLateness(now, from, header.seq, reduction);
    if (reduction.result(header.chunk) != nullptr) {
      sendLate(from, header);
    } else if (round.finished && !reduction.collecting(header.chunk)) {
      toControl(
          from,
          msg::Nack{
              header.seq, NackCode::blacklisted, header.chunk, Seq{header.seq.value + 1}, {}, {}});
    } else {
      reduction.showed(now, from);  // it gets the result, its data does not count
      reduction.refused(from, header.chunk);
      if (for_others) reduction.listens(members_.hostOf(from), header.chunk);
      if (header.attempt > 0) passOn(round, header);
    }
    if (for_others) pump(now, header.seq, round);  // nobody else of its host is waited for
    return Admission::drop;
  }
  if (listens || !welcome(header)) return listen(now, from, header, round, reduction);
  switch (reduction.admit(from, header.chunk)) {
    case Reduction::Admit::keep: return Admission::keep;
    case Reduction::Admit::duplicate: ++counters_.dropped_duplicate; return Admission::drop;
    case Reduction::Admit::late: break;
  }
  noteLateness(now, from, header.seq, reduction);
  lateContribution(now, from, header);
  if (reduction.result(header.chunk) != nullptr) {
    sendLate(from, header);
  } else {
    reduction.showed(now, from);  // being reduced right now: it gets the result with the others
  }
  return Admission::drop;
}

void Machine::noteLateness(Time now, Rank from, Seq seq, Reduction& reduction) {
  if (const auto lag = reduction.lateBy(now, from)) members_.recordLateness(from, seq, *lag);
}

// The chunk is closed. A rank that is nearly current is simply waited for again; one that is far
// behind but alive gets one patience to catch up.
void Machine::lateContribution(Time now, Rank from, const DataHeader& header) {
  ++counters_.late_contributions;
  if (members_.at(from).pace == Member::Pace::timely) return;
  if (header.seq.value + kNearlyCurrent >= newest_.value) {
    members_.caughtUp(from);
  } else {
    members_.startCatchUp(now, from, policy_.patience());
  }
}

// A late rank gets exactly the bytes the others got: lateness is not divergence.
void Machine::sendLate(Rank to, const DataHeader& header) {
  effects_.push_back(
      effect::SendResult{to, header.seq, header.schema, header.chunk, kLateNotCounted});
}

Admission Machine::judgeResult(Rank from, const DataHeader& header) {
  const Round* round = find(header.seq);
  const bool mine = round != nullptr && round->local && !round->finished &&
                    round->local->schema() == header.schema && header.view == config_.view;
  if (!mine && early(from, header)) return Admission::defer;
  if (!mine || members_.gone(from)) {
    ++counters_.dropped_stale;
    return Admission::drop;
  }
  const Contribution& local = *round->local;
  const bool legal = header.chunk.value < local.layout().chunkCount() &&
                     header.payload_bytes == local.layout().payload(header.chunk) &&
                     !header.contributors.empty() &&
                     ((header.contributors | header.blamed | header.mismatched | header.nonfinite |
                       header.corrupt) -
                      members_.all())
                         .empty() &&
                     (header.contributors & (header.nonfinite | header.corrupt)).empty() &&
                     std::isfinite(header.weight_sum);
  if (!legal) {
    ++counters_.dropped_malformed;
    return Admission::drop;
  }
  if (!local.wants(from, header)) {
    ++counters_.dropped_duplicate;
    return Admission::drop;
  }
  return Admission::apply;
}

Admission Machine::judgeBlock(Rank from, const DataHeader& header) {
  const Round* round = find(header.seq);
  if (round == nullptr || !round->strict || round->finished ||
      round->strict->schema() != header.schema) {
    ++counters_.dropped_stale;
    return Admission::drop;
  }
  if (!round->strict->wantsBlock(from, header.attempt, header.chunk.value)) {
    ++counters_.dropped_duplicate;
    return Admission::drop;
  }
  return Admission::place;
}

void Machine::accepted(Time now, Rank from, const DataHeader& header, bool intact) {
  Round* round = find(header.seq);
  if (round == nullptr) return;
  if (!intact && !PAPILIO_MUTANT(damage_dropped)) {
    ++counters_.dropped_corrupt;
    if (header.type == MessageType::block && round->strict) {
      RoundError error{ErrorKind::peer_failed, {}, Reason::corrupt, {}, {}, {}};
      error.ranks.insert(from);
      error.text = "data of rank " + std::to_string(from.value) + " arrived damaged";
      round->strict->fail(std::move(error), effects_);
    } else {
      const auto it = round->variants.find(header.schema);
      // It takes part and gets the result, whatever becomes of its data.
      if (header.type != MessageType::result && it != round->variants.end()) {
        it->second->showed(now, from);
        it->second->damaged(from, header);
      }
      if (header.type == MessageType::result) round->local->damaged(from, header.chunk);
      toControl(from, msg::Nack{header.seq, NackCode::corrupt, header.chunk, {}, {}, {}});
    }
  } else if (header.type == MessageType::contribution) {
    const auto it = round->variants.find(header.schema);
    if (it == round->variants.end()) return;
    giveChunk(now, from, header, *it->second);
    if (round->finished) it->second->withdraw(members_.me());
    // To a stand-in, or to a reducer that was itself routed around and has its result from
    // elsewhere.
    const bool passed = round->finished && round->local && round->local->holds(header.chunk);
    if (header.attempt > 0 || passed) passOn(*round, header);
  } else if (header.type == MessageType::result) {
    round->local->gotResult(now, from, header, effects_);
    hearOfLate(now, *round, header);
    passOn(*round, header);
  } else if (round->strict) {
    round->strict->blockPlaced(from, header.attempt, header.chunk.value, effects_);
  }
  pump(now, header.seq, *round);
  pumpChanged(now);
}

// Who was too late for one reducer is not waited for by the next one either, unless it showed up
// here: with small tensors, one incident would otherwise cost one deadline per reducer.
void Machine::hearOfLate(Time now, const Round& round, const DataHeader& header) {
  // Who was counted by another reducer has started up, even if it never had to contribute here, and
  // is current: while this rank reduces nothing, nothing else would show that.
  const bool current = header.seq.value + kNearlyCurrent >= newest_.value;
  (header.contributors & members_.all()).forEach([&](Rank rank) {
    Member& member = members_.at(rank);
    member.ever_contributed = true;
    if (current && member.pace == Member::Pace::catching_up) members_.trustAgain(rank);
  });
  // The word of their vote, and the verdict, come on another connection and may be slower.
  const auto mismatched = header.mismatched - round.votes.votersOf(header.schema);
  mismatched.forEach([&](Rank rank) { members_.at(rank).voted_out = true; });
  if (const auto it = round.variants.find(header.schema); it != round.variants.end()) {
    it->second->excuse(mismatched);
  }
  if ((header.flags & (kNonFiniteDropped | kCorruptDropped | kOthersSettled)) != 0) return;
  // Left out because it was late before: that is an opinion, and passing it on from one to the next
  // would keep it alive for ever, whatever the rank does since.
  if ((header.flags & kOthersMissed) == 0 && !PAPILIO_MUTANT(no_hearsay_of_hearsay)) return;
  const auto late = members_.expected() - header.contributors - round.votes.voters() - mismatched;
  late.forEach([&](Rank rank) {
    if (rank == members_.me()) return;
    const bool own_fault = header.blamed.contains(rank);
    members_.missed(now, rank, false, own_fault ? std::nullopt : std::optional(header.blamed));
    opinions_changed_ = true;
  });
}

// Somebody wants this rank to reduce a chunk whose result came here from its own reducer. It gets
// those very bytes while the round's tensor is here. Unless the reducer is certainly gone, whoever
// asks is alone in missing it (a broken link, a wrong suspicion), and nobody else is waited for.
// The one who asks may know of that end before this rank does: who is through says so (PROGRESS).
void Machine::passOn(Round& round, const DataHeader& asked) {
  const ChunkIndex chunk = asked.chunk;
  if (!round.local) return;
  const Contribution& local = *round.local;
  const auto it = round.variants.find(local.schema());
  if (it == round.variants.end() || !it->second->collecting(chunk)) return;
  Reduction& reduction = *it->second;
  if (!round.finished && local.waits(chunk)) return;
  reduction.withdraw(members_.me(), chunk);
  if (!round.finished && local.holds(chunk)) {
    reduction.arrivedAt(chunk).forEach([&](Rank to) {
      if (members_.at(to).link == Member::Link::gone) return;
      effects_.push_back(effect::SendHeld{to, asked.seq, chunk});
    });
    reduction.discard(chunk, effects_);
  } else if (!members_.gone(reduction.layout().owner(chunk)) &&
             ((asked.flags & kReducersEnded) == 0 || PAPILIO_MUTANT(word_of_an_end))) {
    reduction.hurry(chunk);
  }
}

void Machine::blocksPosted(Time now, Rank to, Seq seq, std::uint16_t phase) {
  Round* round = find(seq);
  if (round == nullptr || !round->strict) return;
  round->strict->blocksPosted(to, phase, effects_);
  pump(now, seq, *round);
}

DataHeader Machine::resultHeader(Seq seq, SchemaHash schema, ChunkIndex chunk) const {
  DataHeader header;
  header.type = MessageType::result;
  header.seq = seq;
  header.schema = schema;
  header.chunk = chunk;
  const Round* round = find(seq);
  if (round == nullptr) return header;
  const auto it = round->variants.find(schema);
  if (it == round->variants.end()) return header;
  if (const auto* result = it->second->result(chunk)) {
    header.contributors = result->contributors;
    header.weight_sum = result->weight_sum;
    header.blamed = result->blamed;
    header.mismatched = result->mismatched;
    header.nonfinite = result->nonfinite;
    if (!result->nonfinite.empty()) header.flags |= kNonFiniteDropped;
    header.corrupt = result->corrupt;
    if (!result->corrupt.empty()) header.flags |= kCorruptDropped;
    if (result->settled) header.flags |= kOthersSettled;
    if (result->missed) header.flags |= kOthersMissed;
  }
  header.attempt = members_.ringDistance(it->second->layout().owner(chunk), members_.me());
  return header;
}

DataHeader Machine::heldHeader(Seq seq, ChunkIndex chunk) const {
  const Round* round = find(seq);
  if (round == nullptr || !round->local) return {};
  return round->local->heldHeader(chunk);
}

bool Machine::wantsSend(Rank to, Seq seq, ChunkIndex chunk) const {
  const Round* round = find(seq);
  return round != nullptr && round->local && !round->finished && round->local->waits(chunk) &&
         round->local->targetOf(chunk) == to;
}

bool Machine::holdsInput(Seq seq, ChunkIndex chunk) const {
  const Round* round = find(seq);
  return round != nullptr && round->local && !round->finished && round->local->waits(chunk);
}

const RoundShape* Machine::shapeOf(Seq seq, SchemaHash schema) const {
  const Round* round = find(seq);
  if (round == nullptr) return nullptr;
  const auto it = round->variants.find(schema);
  return it == round->variants.end() ? nullptr : &it->second->shape();
}

}  // namespace papilio::fault
