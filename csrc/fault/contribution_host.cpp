// A rank whose host has combined its data before the round: who speaks, who follows (ADR 12).
#include <algorithm>

#include "fault/contribution.hpp"
#include "fault/mutant.hpp"

namespace papilio::fault {

// Neighbours made of the same ranks become one range, wherever they were reduced.
void Contribution::normalize() {
  std::vector<ReportChunk> out;
  for (const auto& range : host_.ranges) {
    const bool same = !out.empty() && out.back().contributors == range.contributors &&
                      out.back().weight == range.weight;
    if (!same) {
      out.push_back(range);
      continue;
    }
    out.back().stop = range.stop;
    if (out.back().source != range.source) out.back().source = Source::reduced;
  }
  host_.ranges = std::move(out);
}

template <class Fn>
void Contribution::eachRange(ChunkIndex index, Fn fn) const {
  const auto within = layout_.range(index);
  auto it = std::partition_point(host_.ranges.begin(), host_.ranges.end(),
                                 [&](const auto& range) { return range.stop <= within.start; });
  for (; it != host_.ranges.end() && it->start < within.stop; ++it) fn(*it);
}

// The one range that the chunk lies in; nullptr if its parts are made of different ranks.
const ReportChunk* Contribution::rangeOf(ChunkIndex index) const {
  const ReportChunk* only = nullptr;
  std::uint32_t count = 0;
  eachRange(index, [&](const ReportChunk& range) {
    only = &range;
    ++count;
  });
  return count == 1 ? only : nullptr;
}

void Contribution::chooseVoice(ChunkIndex index) {
  Chunk& chunk = chunks_[index.value];
  chunk.voice = Voice::speaks;
  if (!host_.combined()) return;
  const ReportChunk* range = rangeOf(index);
  if (range == nullptr || !range->contributors.contains(members_.me())) {
    chunk.voice = Voice::listens;
    return;
  }
  chunk.leader = members_.me();
  bool found = false;
  (range->contributors - failed_leaders_).forEach([&](Rank rank) {
    if (found || (members_.gone(rank) && !PAPILIO_MUTANT(dead_leader_passed_over))) return;
    chunk.leader = rank;
    found = true;
  });
  if (chunk.leader != members_.me()) {
    chunk.voice = Voice::follows;
  } else {
    followers_ = followers_ | followersOf(index);
  }
}

ContributorSet Contribution::followersOf(ChunkIndex index) const {
  ContributorSet out;
  const ReportChunk* range = host_.combined() ? rangeOf(index) : nullptr;
  if (range == nullptr) return out;
  // Those below this rank have failed it, or are alive and need nothing from it.
  range->contributors.forEach([&](Rank rank) {
    if (rank > members_.me() && !members_.gone(rank)) out.insert(rank);
  });
  return out;
}

void Contribution::relay(ChunkIndex index, Effects& out) const {
  if (chunks_[index.value].voice != Voice::speaks) return;
  const auto to = followersOf(index);
  if (!to.empty()) out.push_back(effect::Relay{to, seq_, index});
}

bool Contribution::follows(Rank leader, ChunkIndex index) const {
  if (index.value >= chunks_.size()) return false;
  const Chunk& chunk = chunks_[index.value];
  return chunk.state == State::waiting && chunk.voice == Voice::follows && chunk.leader == leader;
}

DataHeader Contribution::contributionHeader(ChunkIndex index) const {
  const Chunk& chunk = chunks_[index.value];
  DataHeader header;
  header.type = MessageType::contribution;
  header.seq = seq_;
  header.schema = schema_;
  header.chunk = index;
  header.attempt = chunk.attempt;
  if (chunk.attempt > 0 && members_.endedBefore(targetOf(index), layout_.owner(index))) {
    header.flags |= kReducersEnded;
  }
  header.weight = weight_;
  header.shape = shape_;
  if (!host_.combined()) return header;
  const ReportChunk* range = rangeOf(index);
  if (chunk.voice == Voice::listens) {
    header.flags |= kListens;
    // Its parts are of different ranks, and so it is for the others that have part in it: nobody of
    // this host will send it.
    if (range == nullptr) header.flags |= kOfHost;
    return header;
  }
  header.flags |= kOfHost;
  header.contributors = range->contributors;
  header.blamed = (host_.nonfinite - range->contributors) & members_.hostOf(members_.me());
  header.weight = static_cast<float>(range->weight);
  return header;
}

void Contribution::askAround(Time now, ChunkIndex index, Effects& out) {
  const Rank reducer = members_.reducerFor(layout_.owner(index), seq_);
  auto ask = holdersAfter(reducer);
  if (reducer != members_.me()) ask.insert(reducer);
  fetch(now, index, ask, false);
  if (reducer == members_.me()) {  // most likely it is to be made here, of what others send
    chunks_[index.value].here = true;
    chunks_[index.value].fetch_until = now + resultBudget(reducer);
  }
  ask.forEach([&](Rank peer) {
    out.push_back(effect::SendControl{peer, msg::Fetch{seq_, {index.value, index.value + 1}}});
  });
}

std::vector<ChunkIndex> Contribution::leaderFailed(Time now, Rank leader, Effects& out) {
  std::vector<ChunkIndex> own;
  failed_leaders_.insert(leader);
  if (following_[leader.value] == 0) return own;
  for (std::uint32_t c = 0; c < chunks_.size(); ++c) {
    const ChunkIndex index{c};
    if (!follows(leader, index)) continue;
    // What it was to reduce itself has a ladder of its own.
    const Rank owner = layout_.owner(index);
    if (members_.ringDistance(owner, leader) == chunks_[c].attempt) continue;
    if (assign(now, index, out)) own.push_back(index);
  }
  return own;
}

Time Contribution::leaderDeadline(Rank leader) const {
  const Time life = std::max(followed_since_[leader.value], members_.at(leader).reducer_life);
  return life + policy_.budget() / 2;
}

ContributorSet Contribution::silentLeaders(Time now) const {
  ContributorSet out;
  if (following_count_ == 0 || PAPILIO_MUTANT(silent_leader_replaced)) return out;
  for (std::uint32_t r = 0; r < members_.size(); ++r) {
    const Rank rank{r};
    if (following_[r] == 0 || failed_leaders_.contains(rank)) continue;
    if (leaderDeadline(rank) <= now) out.insert(rank);
  }
  return out;
}

void Contribution::leadOn(Time now, Effects& out) {
  if (now < next_word_ || followers_.empty() || done()) return;
  next_word_ = now + Reduction::kProgressEvery;
  auto waits = waitsAt() - followers_;
  waits.erase(members_.me());
  if (waits.empty()) return;
  followers_.forEach([&](Rank to) {
    if (!members_.gone(to)) out.push_back(effect::SendControl{to, msg::Progress{seq_, waits}});
  });
}

Time Contribution::hostDeadline() const {
  Time next = followers_.empty() || done() ? kNever : next_word_;
  if (following_count_ == 0) return next;
  for (std::uint32_t r = 0; r < members_.size(); ++r) {
    if (following_[r] == 0 || failed_leaders_.contains(Rank{r})) continue;
    next = std::min(next, leaderDeadline(Rank{r}));
  }
  return next;
}

// Whose data the tensor holds all over the chunk when no result came.
ContributorSet Contribution::partsOf(ChunkIndex index) const {
  ContributorSet out;
  bool first = true;
  if (!zeroed_) {
    eachRange(index, [&](const ReportChunk& range) {
      out = first ? range.contributors : out & range.contributors;
      first = false;
    });
  }
  if (out.empty()) out.insert(members_.me());
  return out;
}

// … and element by element.
void Contribution::localEntries(ChunkIndex index, std::vector<ReportChunk>& out) const {
  const auto within = layout_.range(index);
  if (zeroed_ || !host_.combined()) {
    const Chunk& chunk = chunks_[index.value];
    out.push_back({within.start, within.stop, chunk.source, chunk.contributors, chunk.weight});
    return;
  }
  eachRange(index, [&](ReportChunk range) {
    range.start = std::max(range.start, within.start);
    range.stop = std::min(range.stop, within.stop);
    out.push_back(range);
  });
}

}  // namespace papilio::fault
