#include "engine/round_buffers.hpp"

#include <algorithm>

namespace papilio::engine {

void RoundBuffers::keep(const ChunkKey& key, KeptContribution contribution) {
  contributions_[key].push_back(std::move(contribution));
}

std::vector<KeptContribution> RoundBuffers::takeContributions(const ChunkKey& key) {
  const auto it = contributions_.find(key);
  if (it == contributions_.end()) return {};
  auto out = std::move(it->second);
  contributions_.erase(it);
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
  erase(contributions_);
  erase(results_);
}

void RoundBuffers::clear() {
  contributions_.clear();
  results_.clear();
}

}  // namespace papilio::engine
