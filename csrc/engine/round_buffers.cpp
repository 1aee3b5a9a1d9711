#include "engine/round_buffers.hpp"

#include <algorithm>

namespace papilio::engine {

void RoundBuffers::keep(const ChunkKey& key, KeptContribution contribution) {
  ++kept_[contribution.rank];
  contributions_[key].push_back(std::move(contribution));
}

std::uint32_t RoundBuffers::keptOf(Rank rank) const {
  const auto it = kept_.find(rank);
  return it == kept_.end() ? 0 : it->second;
}

bool RoundBuffers::dropLater(Rank rank, Seq seq) {
  for (auto it = contributions_.rbegin(); it != contributions_.rend() && it->first.seq > seq;
       ++it) {
    auto& list = it->second;
    const auto found =
        std::find_if(list.begin(), list.end(), [&](const auto& kept) { return kept.rank == rank; });
    if (found == list.end()) continue;
    list.erase(found);
    --kept_[rank];
    return true;
  }
  return false;
}

void RoundBuffers::uncount(const std::vector<KeptContribution>& contributions) {
  for (const auto& contribution : contributions) --kept_[contribution.rank];
}

std::vector<KeptContribution> RoundBuffers::takeContributions(const ChunkKey& key) {
  const auto it = contributions_.find(key);
  if (it == contributions_.end()) return {};
  auto out = std::move(it->second);
  contributions_.erase(it);
  uncount(out);
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
  return out;
}

const KeptResult* RoundBuffers::result(const ChunkKey& key) const {
  const auto it = results_.find(key);
  return it == results_.end() ? nullptr : &it->second;
}

void RoundBuffers::forget(Seq seq, SchemaHash schema) {
  const auto erase = [&](auto& map) {
    auto it = map.lower_bound(ChunkKey{seq, schema, ChunkIndex{0}});
    while (it != map.end() && it->first.seq == seq && it->first.schema == schema) {
      it = map.erase(it);
    }
  };
  const ChunkKey first{seq, schema, ChunkIndex{0}};
  for (auto it = contributions_.lower_bound(first);
       it != contributions_.end() && it->first.seq == seq && it->first.schema == schema; ++it) {
    uncount(it->second);
  }
  erase(contributions_);
  erase(results_);
}

void RoundBuffers::clear() {
  contributions_.clear();
  results_.clear();
  kept_.clear();
}

}  // namespace papilio::engine
