#include "process_group/engine_combiner.hpp"

#include <algorithm>

namespace papilio::pg {

namespace {

// In ranks of the whole group.
ContributorSet translated(const ContributorSet& own, const std::vector<Rank>& members) {
  ContributorSet out;
  own.forEach([&](Rank rank) {
    if (rank.value < members.size()) out.insert(members[rank.value]);
  });
  return out;
}

}  // namespace

// An error in the middle leaves every range explained; one before that leaves the tensor as it was.
fault::HostShare shareOf(const engine::Completion& done, const std::vector<Rank>& members) {
  fault::HostShare out;
  for (fault::ReportChunk chunk : done.report.chunks) {
    if (chunk.contributors.empty()) return {};
    chunk.contributors = translated(chunk.contributors, members);
    out.ranges.push_back(chunk);
  }
  for (const auto& [rank, reason] : done.report.blamed) {
    if (reason == fault::Reason::nonfinite) out.nonfinite.insert(members[rank.value]);
  }
  return out;
}

EngineCombiner::EngineCombiner(std::shared_ptr<engine::Group> group, std::vector<Rank> members)
    : group_(std::move(group)), members_(std::move(members)) {}

void EngineCombiner::combine(Seq seq, const engine::AllreduceRequest& request,
                             std::optional<Duration> timeout, Then then) {
  const engine::AllreduceRequest own{request.data, request.shape};
  auto done = [members = members_, running = running_, seq,
               then = std::move(then)](const engine::Completion& completion) {
    {
      std::lock_guard lock(running->mutex);
      if (running->own.erase(seq) == 0) running->over[seq] = true;
    }
    then(shareOf(completion, members));
  };
  const Seq number = group_->submit(own, timeout, std::move(done));
  std::lock_guard lock(running_->mutex);
  if (running_->over.erase(seq) == 0) running_->own[seq] = number;
}

void EngineCombiner::cancel(Seq seq, const std::string& why) {
  Seq own;
  {
    std::lock_guard lock(running_->mutex);
    const auto it = running_->own.find(seq);
    if (it == running_->own.end()) return;
    own = it->second;
  }
  group_->cancel(own, fault::ErrorKind::aborted, why);
}

std::optional<Rank> EngineCombiner::ownRankOf(Rank rank) const {
  const auto it = std::find(members_.begin(), members_.end(), rank);
  if (it == members_.end()) return std::nullopt;
  return Rank{static_cast<std::uint32_t>(it - members_.begin())};
}

void EngineCombiner::ban(Rank rank, const std::string& reason, std::optional<Duration> term) {
  if (const auto own = ownRankOf(rank)) group_->ban(*own, reason, term);
}

void EngineCombiner::unban(Rank rank) {
  if (const auto own = ownRankOf(rank)) group_->unban(*own);
}

}  // namespace papilio::pg
