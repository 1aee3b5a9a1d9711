#include "fault/contribution.hpp"

#include <algorithm>

#include "fault/mutant.hpp"

namespace papilio::fault {

namespace {
constexpr std::uint8_t kMaxResends = 4;
constexpr std::uint32_t kFetchPeers = 3;
}  // namespace

Contribution::Contribution(const Members& members, const ArrivalPolicy& policy, Seq seq,
                           SchemaHash schema, const RoundShape& shape, float weight, Time now,
                           Time ceiling, HostShare host, bool zeroed)
    : members_(members),
      policy_(policy),
      seq_(seq),
      schema_(schema),
      shape_(shape),
      layout_(shape.numel, elementSize(shape.dtype), members.size(), seq, members.absent(),
              shape.codec),
      weight_(weight),
      entered_(now),
      ceiling_(ceiling),
      chunks_(layout_.chunkCount()),
      waiting_at_(members.size(), 0),
      assigned_(members.size(), now),
      given_(members.size(), 0),
      waited_at_(members.size(), now),
      host_(std::move(host)),
      zeroed_(zeroed),
      via_at_(members.size(), 0),
      following_(members.size(), 0),
      followed_since_(members.size(), now),
      next_word_(now + Reduction::kProgressEvery),
      pending_(layout_.chunkCount()) {
  normalize();
  for (std::uint32_t r = 0; r < members.size(); ++r) {
    if (members.at(Rank{r}).pace == Member::Pace::late) late_.insert(Rank{r});
  }
}

std::vector<ChunkIndex> Contribution::start(Effects& out) {
  std::vector<ChunkIndex> own;
  const std::uint32_t n = members_.size();
  // The rotation me+1, me+2, … spreads the senders over the reducers (protocol A4).
  for (std::uint32_t k = 1; k <= n; ++k) {
    const auto span = layout_.shardChunks(Rank{(members_.me().value + k) % n});
    for (std::uint32_t i = 0; i < span.count; ++i) {
      const ChunkIndex chunk{span.first + i};
      ++waiting_at_[0];  // assign() moves it from its old target
      chunks_[chunk.value].target = Rank{0};
      if (assign(entered_, chunk, out)) own.push_back(chunk);
    }
  }
  return own;
}

bool Contribution::assign(Time now, ChunkIndex index, Effects& out) {
  Chunk& chunk = chunks_[index.value];
  const Rank owner = layout_.owner(index);
  const Rank reducer = members_.reducerFor(owner, seq_);
  leave(chunk);
  chunk.state = State::waiting;
  chunk.attempt = members_.ringDistance(owner, reducer);
  chooseVoice(index);
  const bool follows = chunk.voice == Voice::follows;
  chunk.via = follows && reducer != members_.me() && !members_.near(reducer);
  chunk.target = chunk.via ? chunk.leader : reducer;
  ++(chunk.via ? via_at_ : waiting_at_)[chunk.target.value];
  assigned_[chunk.target.value] = now;
  ++given_[chunk.target.value];
  if (follows) {
    if (following_[chunk.leader.value]++ == 0) followed_since_[chunk.leader.value] = now;
    ++following_count_;
  }
  if (reducer == members_.me()) return true;
  if (!follows) out.push_back(effect::SendContribution{reducer, seq_, index, chunk.attempt});
  return false;
}

void Contribution::leave(const Chunk& chunk) {
  if (chunk.state == State::fetching) --fetching_;
  if (chunk.state != State::waiting) return;
  --(chunk.via ? via_at_ : waiting_at_)[chunk.target.value];
  if (chunk.voice != Voice::follows) return;
  --following_[chunk.leader.value];
  --following_count_;
}

bool Contribution::wants(Rank from, const DataHeader& header) const {
  if (header.chunk.value >= chunks_.size()) return false;
  const Chunk& chunk = chunks_[header.chunk.value];
  if (chunk.state == State::got) return false;
  if ((header.flags & kFetched) != 0) return true;
  if ((header.flags & kRelayed) != 0) return host_.combined() && members_.near(from);
  const Rank owner = layout_.owner(header.chunk);
  return (owner.value + header.attempt) % members_.size() == from.value;
}

void Contribution::settle(Chunk& chunk, Source source, const ContributorSet& contributors,
                          double weight) {
  leave(chunk);
  chunk.state = State::got;
  chunk.source = source;
  chunk.contributors = contributors;
  chunk.weight = weight;
  --pending_;
}

void Contribution::gotResult(Time, Rank from, const DataHeader& header, Effects& out) {
  Chunk& chunk = chunks_[header.chunk.value];
  if (chunk.state == State::got) return;
  const bool fetched = (header.flags & kFetched) != 0;
  const bool in_it = header.contributors.contains(members_.me());
  if (in_it) counted_ = true;
  // Who took over from a leader whose contribution was there already is not late.
  const bool damaged = header.corrupt.contains(members_.me());
  if ((header.flags & kLateNotCounted) != 0 && !in_it && !damaged) behind_ = true;
  const Source source = fetched              ? Source::fetched
                        : header.attempt > 0 ? Source::redone
                                             : Source::reduced;
  // Whoever else may be collecting this chunk must not wait for this rank.
  const Rank reducer = members_.reducerFor(layout_.owner(header.chunk), seq_);
  const bool relayed = (header.flags & kRelayed) != 0;
  if (reducer != from && reducer != members_.me() && !relayed) {
    const ChunkRange one{header.chunk.value, header.chunk.value + 1};
    out.push_back(effect::SendControl{reducer, msg::Settled{seq_, one, Seq{}}});
  }
  chunk.attempt = header.attempt;
  chunk.why = header.flags & (kNonFiniteDropped | kCorruptDropped | kOthersSettled);
  chunk.blamed = header.blamed;
  chunk.mismatched = header.mismatched;
  chunk.nonfinite = header.nonfinite;
  chunk.corrupt = header.corrupt;
  settle(chunk, source, header.contributors, header.weight_sum);
  // A reducer of this host has given it to the others itself.
  if (fetched || !members_.near(from)) relay(header.chunk, out);
}

void Contribution::gotOwn(ChunkIndex index, const Reduction::Result& result) {
  Chunk& chunk = chunks_[index.value];
  if (chunk.state == State::got) return;
  const auto attempt = members_.ringDistance(layout_.owner(index), members_.me());
  chunk.attempt = attempt;
  chunk.why = static_cast<std::uint16_t>((result.nonfinite.empty() ? 0 : kNonFiniteDropped) |
                                         (result.corrupt.empty() ? 0 : kCorruptDropped) |
                                         (result.settled ? kOthersSettled : 0));
  chunk.blamed = result.blamed;
  chunk.mismatched = result.mismatched;
  chunk.nonfinite = result.nonfinite;
  chunk.corrupt = result.corrupt;
  settle(chunk, attempt > 0 ? Source::redone : Source::reduced, result.contributors,
         result.weight_sum);
}

void Contribution::damaged(Rank from, ChunkIndex index) {
  Chunk& chunk = chunks_[index.value];
  chunk.damaged = chunk.damaged || (chunk.state == State::waiting && chunk.target == from);
}

void Contribution::gotNone(Time now, Rank from, const msg::None& none, Effects& out) {
  const auto last = std::min<std::uint32_t>(none.chunks.last, layout_.chunkCount());
  for (std::uint32_t c = none.chunks.first; c < last; ++c) {
    Chunk& chunk = chunks_[c];
    const bool answer = chunk.state == State::fetching && chunk.asked.contains(from);
    if (answer && none.known == msg::Known::lacking) owes_others_.insert(chunk.target);
    chunk.asked.erase(from);
    if (chunk.state != State::waiting || chunk.target != from) continue;
    // It was reduced elsewhere and is over there; or the leader got no result itself, and has spent
    // for it what patience there is, or sends a damaged one no more.
    if (chunk.via || chunk.voice == Voice::listens) {
      askAround(now, ChunkIndex{c}, out);
      continue;
    }
    if (!chunk.damaged) continue;
    failed_reducers_.emplace(from, Reason::corrupt);
    const auto ask = holdersAfter(from);
    fetch(now, ChunkIndex{c}, ask, false);
    ask.forEach(
        [&](Rank peer) { out.push_back(effect::SendControl{peer, msg::Fetch{seq_, {c, c + 1}}}); });
  }
}

void Contribution::gone(Rank from, ChunkIndex index, Effects& out) {
  if (index.value >= chunks_.size()) return;
  const Chunk& chunk = chunks_[index.value];
  if (chunk.state != State::waiting || chunk.target != from || chunk.via) return;
  behind_ = true;
  fillLocal(index, out);
}

void Contribution::stale(Time now, Rank from, ChunkIndex index) {
  if (index.value >= chunks_.size()) return;
  const Chunk& chunk = chunks_[index.value];
  if (chunk.state != State::waiting || chunk.target != from || chunk.via) return;
  behind_ = true;
  ContributorSet on_its_way;
  on_its_way.insert(from);
  fetch(now, index, on_its_way, false);
}

// Ranks that may have the result of a chunk that `failed` was to send, the successor first: it may
// have redone it already.
ContributorSet Contribution::holdersAfter(Rank failed) const {
  ContributorSet ask;
  for (std::uint32_t k = 1; k < members_.size() && ask.count() < kFetchPeers; ++k) {
    const Rank peer{(failed.value + k) % members_.size()};
    if (peer != members_.me() && members_.mayReduce(peer, seq_)) ask.insert(peer);
  }
  return ask;
}

void Contribution::fetch(Time now, ChunkIndex index, const ContributorSet& ask, bool hard) {
  Chunk& chunk = chunks_[index.value];
  leave(chunk);
  ++fetching_;
  chunk.state = State::fetching;
  chunk.hard = hard;
  chunk.asked = ask;
  chunk.here = false;
  chunk.fetch_until = now + kFetchBudget;
}

void Contribution::fillLocal(ChunkIndex index, Effects& out) {
  Chunk& chunk = chunks_[index.value];
  if (chunk.state == State::got) return;
  settle(chunk, Source::local, partsOf(index), static_cast<double>(weight_));
  out.push_back(effect::FillLocal{seq_, index});
  if (chunk.voice == Voice::speaks) {  // those who follow must not wait for it in vain
    followersOf(index).forEach([&](Rank to) {
      out.push_back(effect::SendControl{to, msg::None{seq_, {index.value, index.value + 1}}});
    });
  }
  if (chunk.via || chunk.target == members_.me() || members_.gone(chunk.target)) return;
  const ChunkRange one{index.value, index.value + 1};
  out.push_back(effect::SendControl{chunk.target, msg::Settled{seq_, one, Seq{}}});
}

bool Contribution::resend(Rank to, ChunkIndex index, Effects& out) {
  if (index.value >= chunks_.size()) return false;
  Chunk& chunk = chunks_[index.value];
  if (chunk.state != State::waiting || chunk.target != to || chunk.voice == Voice::follows) {
    return false;
  }
  if (++chunk.resends <= kMaxResends) {
    out.push_back(effect::SendContribution{to, seq_, index, chunk.attempt});
  }
  return true;
}

void Contribution::reducerFailed(Time now, Rank failed, bool hard, Effects& out) {
  failed_reducers_.emplace(failed, hard ? members_.goneReason(failed) : Reason::slow);
  for (auto& chunk : chunks_) chunk.asked.erase(failed);
  if (waiting_at_[failed.value] == 0) return;
  out.push_back(effect::DropContributions{failed, seq_});
  const auto ask = holdersAfter(failed);
  std::vector<ChunkRange> ranges;
  for (std::uint32_t c = 0; c < chunks_.size(); ++c) {
    const Chunk& chunk = chunks_[c];
    if (chunk.state != State::waiting || chunk.target != failed || chunk.via) continue;
    fetch(now, ChunkIndex{c}, ask, hard);
    if (!ranges.empty() && ranges.back().last == c) {
      ++ranges.back().last;
    } else {
      ranges.push_back({c, c + 1});
    }
  }
  ask.forEach([&](Rank peer) {
    for (const auto& range : ranges) {
      out.push_back(effect::SendControl{peer, msg::Fetch{seq_, range}});
    }
  });
}

std::vector<ChunkIndex> Contribution::redirect(Time now, Rank target, Effects& out) {
  std::vector<ChunkIndex> own;
  if (waiting_at_[target.value] == 0) return own;
  out.push_back(effect::DropContributions{target, seq_});
  for (std::uint32_t c = 0; c < chunks_.size(); ++c) {
    const Chunk& chunk = chunks_[c];
    if (chunk.state != State::waiting || chunk.target != target || chunk.via) continue;
    if (assign(now, ChunkIndex{c}, out)) own.push_back(ChunkIndex{c});
  }
  return own;
}

Contribution::Findings Contribution::takeFindings() {
  Findings out;
  if (suspected_.empty()) return out;
  auto done = suspected_;
  for (const Chunk& chunk : chunks_) {
    if (chunk.state == State::fetching) done.erase(chunk.target);
  }
  suspected_ = suspected_ - done;
  done.forEach([&](Rank rank) {
    const bool confirmed = owes_others_.contains(rank);
    if (confirmed) out.confirmed.insert(rank);
    (confirmed || holdersAfter(rank).empty() ? out.guilty : out.cleared).insert(rank);
  });
  return out;
}

void Contribution::excuse(Rank rank) {
  const auto it = failed_reducers_.find(rank);
  if (it == failed_reducers_.end() || it->second != Reason::slow) return;
  failed_reducers_.erase(it);
  behind_ = true;
}

std::vector<ChunkIndex> Contribution::advance(Time now, Effects& out) {
  std::vector<ChunkIndex> own;
  if (fetching_ == 0) return own;
  for (std::uint32_t c = 0; c < chunks_.size(); ++c) {
    Chunk& chunk = chunks_[c];
    if (chunk.state != State::fetching) continue;
    const bool due = now >= chunk.fetch_until && !PAPILIO_MUTANT(fetch_has_a_limit);
    if ((chunk.here || !chunk.asked.empty()) && !due) continue;
    if (!chunk.hard) {
      fillLocal(ChunkIndex{c}, out);
    } else if (assign(now, ChunkIndex{c}, out)) {
      own.push_back(ChunkIndex{c});
    }
  }
  return own;
}

void Contribution::giveUp(Effects& out) {
  for (std::uint32_t c = 0; c < chunks_.size(); ++c) fillLocal(ChunkIndex{c}, out);
}

Duration Contribution::resultBudget(Rank target) const {
  // One that was late before this round began has used up its patience. If its process runs, it
  // shows PROGRESS well within the margin.
  if (late_.contains(target)) return kResultMargin;
  return policy_.budget() + kResultMargin;
}

Time Contribution::resultDeadline(Rank target) const {
  // A stand-in's time starts when it got the chunk, not when its predecessor did.
  const Time since = assigned_[target.value];
  const Time quiet = std::max(since, members_.at(target).reducer_life) + resultBudget(target);
  // Its results may trickle in, each in time. All of them together have a limit too.
  const auto bytes = layout_.totalPayload() / layout_.chunkCount() * given_[target.value];
  const Time all = std::max(since, waited_at_[target.value]) + policy_.patience() + kResultMargin +
                   ArrivalPolicy::transfer(bytes);
  return std::min(quiet, PAPILIO_MUTANT(results_have_a_limit) ? quiet : all);
}

ContributorSet Contribution::overdue(Time now) const {
  ContributorSet out;
  for (std::uint32_t r = 0; r < members_.size(); ++r) {
    if (waiting_at_[r] == 0 || Rank{r} == members_.me()) continue;
    if (resultDeadline(Rank{r}) <= now) out.insert(Rank{r});
  }
  return out;
}

ContributorSet Contribution::quiet(Time now) const {
  ContributorSet out;
  for (std::uint32_t r = 0; r < members_.size(); ++r) {
    if (waiting_at_[r] == 0 || Rank{r} == members_.me()) continue;
    if (resultDeadline(Rank{r}) - resultBudget(Rank{r}) / 2 <= now) out.insert(Rank{r});
  }
  return out;
}

ContributorSet Contribution::waitsAt() const {
  ContributorSet out;
  for (std::uint32_t r = 0; r < members_.size(); ++r) {
    if (waiting_at_[r] != 0 || via_at_[r] != 0) out.insert(Rank{r});
  }
  return out;
}

ContributorSet Contribution::stuckAt() const {
  ContributorSet out = waitsAt();
  if (fetching_ == 0) return out;
  for (const Chunk& chunk : chunks_) {
    if (chunk.state == State::fetching) out.insert(chunk.target);
  }
  return out;
}

Time Contribution::verdictAt() const {
  Time next = kNever;
  for (std::uint32_t r = 0; r < members_.size(); ++r) {
    if (waiting_at_[r] == 0 || Rank{r} == members_.me()) continue;
    next = std::min(next, resultDeadline(Rank{r}));
  }
  return next;
}

Time Contribution::nextDeadline(Time verdict) const {
  Time next = std::min({ceiling_, verdict, hostDeadline()});
  if (fetching_ == 0) return next;
  for (const auto& chunk : chunks_) {
    if (chunk.state == State::fetching) next = std::min(next, chunk.fetch_until);
  }
  return next;
}

bool Contribution::holds(ChunkIndex chunk) const {
  return chunk.value < chunks_.size() && chunks_[chunk.value].state == State::got &&
         chunks_[chunk.value].source != Source::local;
}

msg::Known Contribution::known(Time now, ChunkIndex index) const {
  const Chunk& chunk = chunks_[index.value];
  if (holds(index)) return msg::Known::came;
  const bool waits = chunk.state == State::waiting;
  return waits && !quiet(now).contains(chunk.target) ? msg::Known::nothing : msg::Known::lacking;
}

DataHeader Contribution::heldHeader(ChunkIndex index) const {
  const Chunk& chunk = chunks_[index.value];
  DataHeader header;
  header.type = MessageType::result;
  header.flags = static_cast<std::uint16_t>(kFetched | chunk.why);
  header.seq = seq_;
  header.schema = schema_;
  header.chunk = index;
  header.attempt = chunk.attempt;
  header.contributors = chunk.contributors;
  header.weight_sum = chunk.weight;
  header.blamed = chunk.blamed;
  header.mismatched = chunk.mismatched;
  header.nonfinite = chunk.nonfinite;
  header.corrupt = chunk.corrupt;
  return header;
}

template <class Which>
std::vector<ChunkRange> Contribution::chunksThat(Which which) const {
  std::vector<ChunkRange> out;
  for (std::uint32_t c = 0; c < chunks_.size(); ++c) {
    if (!which(ChunkIndex{c}, chunks_[c])) continue;
    if (!out.empty() && out.back().last == c) {
      ++out.back().last;
    } else {
      out.push_back({c, c + 1});
    }
  }
  return out;
}

std::vector<ChunkRange> Contribution::gotRanges() const {
  return chunksThat([](ChunkIndex, const Chunk& chunk) { return chunk.state == State::got; });
}

std::vector<ChunkRange> Contribution::notAt(Rank reducer) const {
  return chunksThat([&](ChunkIndex index, const Chunk& chunk) {
    if (chunk.state != State::waiting) return chunk.state == State::got;
    if (chunk.via) return false;  // its leader has it there, or this rank will
    // Past the reducer, its successor has it for good. Before it, the chunk may still come to it:
    // it has heard of a death that this rank has not heard of yet.
    const Rank owner = layout_.owner(index);
    return members_.ringDistance(owner, chunk.target) > members_.ringDistance(owner, reducer);
  });
}

}  // namespace papilio::fault
