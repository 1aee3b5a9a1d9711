#include "fault/reduction.hpp"

#include <algorithm>

#include "fault/mutant.hpp"

namespace papilio::fault {

namespace {
constexpr std::uint8_t kMaxResends = 4;
constexpr std::size_t kMaxEarlySettles = 4 * kMaxRanks;
}  // namespace

Reduction::Reduction(const Members& members, const ArrivalPolicy& policy, Seq seq,
                     SchemaHash schema, const RoundShape& shape)
    : members_(members),
      policy_(policy),
      seq_(seq),
      schema_(schema),
      shape_(shape),
      layout_(shape.numel, elementSize(shape.dtype), members.size(), seq, members.absent(),
              shape.codec),
      first_seen_(members.size(), kNever),
      last_seen_(members.size(), Time{}),
      held_until_(members.size(), Time{}),
      weights_(members.size(), 1.0F) {
  for (std::uint32_t r = 0; r < members.size(); ++r) speakers_.push_back(Rank{r});
}

Reduction::Admit Reduction::admit(Rank src, ChunkIndex chunk) const {
  const auto it = duties_.find(chunk.value);
  if (it == duties_.end()) return Admit::keep;
  const bool open = it->second.phase == Phase::collecting;
  if (!open && !PAPILIO_MUTANT(late_contribution_dropped)) return Admit::late;
  const bool again = it->second.arrived.contains(src);
  return again && !PAPILIO_MUTANT(duplicate_dropped) ? Admit::duplicate : Admit::keep;
}

void Reduction::showed(Time now, Rank src) {
  shown_.insert(src);
  last_seen_[src.value] = now;
  if (first_seen_[src.value] != kNever) return;
  first_seen_[src.value] = now;
  noteArrivalOrder(now);
}

void Reduction::noteArrivalOrder(Time now) {
  if (next_progress_ == kNever) next_progress_ = now + kProgressEvery;
  const auto expected = members_.expected();
  const auto here = ((shown_ | represented_) & expected).count();
  if (median_ == kNever && here >= (expected.count() + 1) / 2) median_ = now;
}

void Reduction::arrived(Time now, Rank src, ChunkIndex chunk, float weight, const Share* share) {
  Duty& duty = dutyFor(chunk);
  if (duty.phase != Phase::collecting) return;
  if (duty.arrived.empty()) begun_ = now;
  if (duty.arrived.empty() && layout_.owner(chunk) != members_.me()) reopened_ = now;
  duty.arrived.insert(src);
  duty.settled.erase(src);
  duty.corrupt.erase(src);
  speakers_[src.value] = src;
  duty.shares.erase(src);
  if (share != nullptr) {
    duty.shares.emplace(src, *share);
    duty.weights[src] = weight;
    represent(now, src, *share);
  } else {
    weights_[src.value] = weight;
  }
  showed(now, src);
}

Reduction::Duty& Reduction::dutyFor(ChunkIndex chunk) {
  auto [it, fresh] = duties_.try_emplace(chunk.value);
  if (!fresh) return it->second;
  enter(Phase::collecting, chunk.value, it->second);
  for (const auto& [rank, range] : settled_early_) {
    if (chunk.value >= range.first && chunk.value < range.last) it->second.settled.insert(rank);
  }
  return it->second;
}

void Reduction::enter(Phase phase, std::uint32_t chunk, Duty& duty) {
  duty.phase = phase;
  const auto at = std::lower_bound(open_.begin(), open_.end(), chunk);
  const bool listed = at != open_.end() && *at == chunk;
  if (phase == Phase::collecting && !listed) open_.insert(at, chunk);
  if (phase != Phase::collecting && listed) open_.erase(at);
}

void Reduction::settle(Rank src, ChunkRange chunks) {
  if (settled_early_.size() < kMaxEarlySettles) settled_early_.emplace_back(src, chunks);
  for (auto it = duties_.lower_bound(chunks.first); it != duties_.end(); ++it) {
    if (it->first >= chunks.last) break;
    if (!it->second.arrived.contains(src)) it->second.settled.insert(src);
  }
}

ContributorSet Reduction::settledRanks() const {
  ContributorSet out;
  for (std::uint32_t r = 0; r < members_.size(); ++r) {
    if (members_.at(Rank{r}).settled_before > seq_) out.insert(Rank{r});
  }
  return out;
}

ContributorSet Reduction::waitingFor(const Duty& duty, const ContributorSet& expected) const {
  if (duty.phase != Phase::collecting || duty.arrived.empty() || duty.hurried) return {};
  const auto elsewhere = members_.goingAround(seq_);
  return expected - duty.arrived - duty.settled - duty.corrupt - absent_ - duty.listening -
         covered(duty) - elsewhere;
}

ContributorSet Reduction::waitingFor() const {
  const auto expected = members_.expected() - settledRanks();
  ContributorSet out;
  forEachOpen([&](ChunkIndex, const Duty& duty) { out = out | waitingFor(duty, expected); });
  return out;
}

void Reduction::closeReady(Effects& out) {
  const auto expected = members_.expected() - settledRanks();
  const auto open = open_;
  for (const std::uint32_t chunk : open) {
    Duty& duty = duties_.at(chunk);
    if (duty.arrived.empty() || !waitingFor(duty, expected).empty()) continue;
    const ContributorSet counted = chosen(duty);
    if (counted
            .empty()) {  // those who contributed are dead or out since, and nobody else will come
      discard(ChunkIndex{chunk}, out);
      continue;
    }
    enter(Phase::reducing, chunk, duty);
    duty.result.contributors = setOf(duty, counted);
    duty.result.weight_sum = weightOf(duty, counted);
    out.push_back(effect::Reduce{seq_, schema_, ChunkIndex{chunk}, counted});
  }
}

void Reduction::reduced(Time now, ChunkIndex chunk, const ContributorSet& sources, bool had_input,
                        Effects& out) {
  Duty& duty = duties_.at(chunk.value);
  const ContributorSet actual = setOf(duty, sources);
  if (actual.empty()) {
    enter(Phase::collecting, chunk.value, duty);
    duty.arrived = {};
    duty.result = {};
    return;
  }
  enter(Phase::closed, chunk.value, duty);
  const auto missing = members_.all() - duty.result.contributors;
  // Hurried: the others have the chunk from elsewhere.
  const auto through = duty.hurried ? missing : missing & (duty.settled | settledRanks());
  duty.result.settled = !through.empty();
  duty.result.corrupt = missing & duty.corrupt;
  duty.result.absent = missing - through - duty.corrupt;
  duty.result.missed = !(duty.result.absent & (absent_ - mismatched_)).empty();
  duty.result.nonfinite = duty.result.contributors - actual;
  if (!had_input) {
    ContributorSet self;
    self.insert(members_.me());
    duty.result.nonfinite = duty.result.nonfinite - setOf(duty, self);
  }
  duty.result.spoken_for = duty.listening - actual;
  for (const auto& [source, share] : duty.shares) {
    const auto rest = (share.host & members_.all()) - actual;
    duty.result.spoken_for = duty.result.spoken_for | rest;
    if (!sources.contains(source)) continue;  // banned since: no fault of those it spoke for
    duty.result.nonfinite = duty.result.nonfinite | (share.nonfinite & rest);
  }
  duty.result.contributors = actual;
  duty.result.weight_sum = weightOf(duty, sources);
  kept_bytes_ += layout_.payload(chunk);
  last_close_ = now;
  // Those of this host that are in it get it from here, whoever spoke for them.
  (shown_ | (actual & members_.hostOf(members_.me()))).forEach([&](Rank to) {
    if (to == members_.me() || members_.gone(to) || duty.settled.contains(to)) return;
    const std::uint16_t flags = actual.contains(to) ? std::uint16_t{0} : kLateNotCounted;
    out.push_back(effect::SendResult{to, seq_, schema_, chunk, flags});
  });
}

double Reduction::weightOf(const Duty& duty, const ContributorSet& sources) const {
  double sum = 0;
  sources.forEach([&](Rank rank) {
    const float weight =
        duty.shares.count(rank) != 0 ? duty.weights.at(rank) : weights_[rank.value];
    sum += PAPILIO_MUTANT(weights) ? 1.0 : static_cast<double>(weight);
  });
  return sum;
}

Time Reduction::deadlineOf(Rank rank) const {
  return std::max(deadlineOfItsOwn(rank), held_until_[rank.value]);
}

Time Reduction::deadlineOfItsOwn(Rank rank) const {
  const Member& member = members_.at(rank);
  if (member.pace == Member::Pace::catching_up) return member.catch_up_until;
  if (median_ == kNever) return deadlineAlone(rank);
  if (!here(rank)) {
    const bool starting = !member.ever_contributed;
    const Time usual =
        std::max(median_, reopened_) + (starting ? policy_.firstBudget() : policy_.budget());
    // One that has just caught up, or was just let go by others, enters rounds that waited for it
    // all the while: its patience is not over before it was.
    const Time let_go =
        std::min(member.waited_until + policy_.budget(), usual + policy_.patience());
    return std::max({usual, member.catch_up_until, let_go});
  }
  // It is here, but some of its chunks are not. Closing a chunk is what lets it send the next one,
  // so the clock restarts with every arrival and every close; the rate floor bounds the whole.
  const Time active = std::max({median_, reopened_, last_seen_[rank.value], last_close_});
  const Time quiet = active + policy_.budget();
  const Time ceiling = first_seen_[rank.value] + policy_.patience() +
                       ArrivalPolicy::transfer(layout_.totalPayload());
  return std::min(quiet, std::max(ceiling, std::max(median_, reopened_) + policy_.patience()));
}

// Fewer than half are here, so nobody knows whether the others are late or this one is early. They
// may be gone for good all the same (their user code ended after an error), and without a limit
// every round would last until its ceiling.
Time Reduction::deadlineAlone(Rank rank) const {
  const Member& member = members_.at(rank);
  if (!member.ever_contributed) return kNever;  // it may still start up
  const Time since = std::max({begun_, last_seen_[rank.value], last_close_});
  return std::max(since + policy_.aloneBudget(), member.catch_up_until);
}

// It is waited for at chunks alone that it can not send: others, that are missing at earlier ones,
// hold its credits here. Timers come late on a busy host, so their deadlines may pass together.
bool Reduction::heldHere(Rank rank, const CreditsSpent& spent) const {
  if (rank == members_.me()) return false;
  const auto expected = members_.expected() - settledRanks();
  return std::all_of(open_.begin(), open_.end(), [&](std::uint32_t chunk) {
    if (!waitingFor(duties_.at(chunk), expected).contains(rank)) return true;
    return spent(speakers_[rank.value], layout_.owner(ChunkIndex{chunk}));
  });
}

std::uint32_t Reduction::openFrom(Rank rank, Rank owner) const {
  std::uint32_t count = 0;
  forEachOpen([&](ChunkIndex chunk, const Duty& duty) {
    if (duty.arrived.contains(rank) && layout_.owner(chunk) == owner) ++count;
  });
  return count;
}

ContributorSet Reduction::expire(Time now, const CreditsSpent& spent) {
  ContributorSet late;
  if (PAPILIO_MUTANT(exclude_after_deadline)) return late;
  waitingFor().forEach([&](Rank rank) {
    if (deadlineOf(rank) > now) return;
    if (heldHere(rank, spent)) {
      held_until_[rank.value] = now + policy_.budget();
    } else {
      late.insert(rank);
    }
  });
  absent_ = absent_ | late;
  return late;
}

Reduction::Due Reduction::due() const {
  Due due;
  bool waits = false;
  waitingFor().forEach([&](Rank rank) {
    waits = true;
    due.verdict = std::min(due.verdict, deadlineOf(rank));
  });
  const bool says = waits || (vote_open_ && !idle());
  due.any = says ? std::min(due.verdict, next_progress_) : due.verdict;
  return due;
}

void Reduction::withdraw(Rank src, ChunkIndex chunk) {
  if (!collecting(chunk)) return;
  Duty& duty = duties_.at(chunk.value);
  duty.arrived.erase(src);
  duty.settled.insert(src);
}

void Reduction::withdraw(Rank src) {
  for (const std::uint32_t chunk : open_) {
    Duty& duty = duties_.at(chunk);
    duty.arrived.erase(src);
    duty.settled.insert(src);
  }
  settle(src, {0, layout_.chunkCount()});
}

bool Reduction::complete() const {
  const auto present = members_.present();
  return std::all_of(duties_.begin(), duties_.end(), [&](const auto& entry) {
    const Duty& duty = entry.second;
    if (duty.phase == Phase::collecting) return duty.arrived.empty();
    return duty.phase == Phase::closed && (present - duty.result.contributors).empty();
  });
}

ContributorSet Reduction::shardsAwaited(Rank rank) const {
  ContributorSet out;
  forEachOpen([&](ChunkIndex chunk, const Duty& duty) {
    if (duty.arrived.empty() || duty.hurried) return;
    if (duty.arrived.contains(rank) || duty.settled.contains(rank)) return;
    if (duty.listening.contains(rank) || covered(duty).contains(rank)) return;
    const Rank owner = layout_.owner(chunk);
    if (members_.reducesForSure(owner)) out.insert(owner);
  });
  return out;
}

bool Reduction::collecting(ChunkIndex chunk) const {
  const auto it = duties_.find(chunk.value);
  return it != duties_.end() && it->second.phase == Phase::collecting;
}

ContributorSet Reduction::arrivedAt(ChunkIndex chunk) const {
  if (!collecting(chunk)) return {};
  const Duty& duty = duties_.at(chunk.value);
  return duty.arrived | duty.refused | duty.listening;
}

void Reduction::discard(ChunkIndex chunk, Effects& out) {
  if (!collecting(chunk)) return;
  Duty& duty = duties_.at(chunk.value);
  duty.settled = duty.settled | duty.arrived;
  duty.arrived = duty.refused = {};
  out.push_back(effect::Discard{seq_, schema_, chunk});
}

void Reduction::hurry(ChunkIndex chunk) {
  if (collecting(chunk)) duties_.at(chunk.value).hurried = true;
}

bool Reduction::idle() const {
  return std::none_of(open_.begin(), open_.end(),
                      [&](std::uint32_t chunk) { return !duties_.at(chunk).arrived.empty(); });
}

std::optional<Duration> Reduction::lagOf(Rank rank) const {
  if (median_ == kNever || first_seen_[rank.value] == kNever) return std::nullopt;
  return first_seen_[rank.value] - median_;
}

std::optional<Duration> Reduction::lateBy(Time now, Rank rank) {
  if (median_ == kNever || here(rank) || noted_late_.contains(rank)) return std::nullopt;
  noted_late_.insert(rank);
  return now - median_;
}

const Reduction::Result* Reduction::result(ChunkIndex chunk) const {
  const auto it = duties_.find(chunk.value);
  if (it == duties_.end() || it->second.phase != Phase::closed) return nullptr;
  return &it->second.result;
}

void Reduction::damaged(Rank from, const DataHeader& header) {
  Duty& duty = dutyFor(header.chunk);
  if (duty.phase != Phase::collecting || ++duty.damages[from] <= kMaxResends) return;
  duty.corrupt.insert(from);
  if ((header.flags & kOfHost) != 0) duty.corrupt = duty.corrupt | header.contributors;
  duty.corrupt = duty.corrupt - duty.arrived;
}

bool Reduction::mayResend(Rank to, ChunkIndex chunk) {
  const auto it = duties_.find(chunk.value);
  return it != duties_.end() && ++it->second.resends[to] <= kMaxResends;
}

bool Reduction::reportProgress(Time now, const ContributorSet& voters, Effects& out) {
  if (now < next_progress_) return false;
  const auto missing = vote_open_ ? waitingFor() | voters : waitingFor();
  if (missing.empty() && (!vote_open_ || idle())) return false;
  next_progress_ = now + kProgressEvery;
  // To those who wait here, and to those it waits for: whoever is through with the round says so.
  const auto near = represented_ & members_.hostOf(members_.me());
  (shown_ | missing | near).forEach([&](Rank to) {
    if (to == members_.me() || members_.gone(to)) return;
    out.push_back(effect::SendControl{to, msg::Progress{seq_, missing}});
  });
  return true;
}

}  // namespace papilio::fault
