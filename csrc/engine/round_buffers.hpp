// The bytes behind the machines' names: contributions and results by (seq, schema, chunk).
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <vector>

#include "core/contributor_set.hpp"
#include "core/ids.hpp"
#include "engine/block_pool.hpp"

namespace papilio::engine {

struct ChunkKey {
  Seq seq;
  SchemaHash schema;
  ChunkIndex chunk;
  auto operator<=>(const ChunkKey&) const = default;
};

struct KeptContribution {
  Rank rank;
  float weight = 1.0F;
  BlockRef block;
  bool of_host = false;  // combined before
};

struct KeptResult {
  BlockRef block;
  std::uint32_t crc = 0;
};

class RoundBuffers {
 public:
  void keep(const ChunkKey& key, KeptContribution contribution);
  // Contributions of this rank that are here, not yet reduced.
  std::uint32_t keptOf(Rank rank) const;
  // Drops the one of them that is for the latest round, if that is later than `seq`.
  bool dropLater(Rank rank, Seq seq);
  // Removes and returns the chunk's contributions, sorted by rank.
  std::vector<KeptContribution> takeContributions(const ChunkKey& key);
  void keepResult(const ChunkKey& key, KeptResult result) { results_[key] = std::move(result); }
  const KeptResult* result(const ChunkKey& key) const;
  void forget(Seq seq, SchemaHash schema);
  void clear();

 private:
  void uncount(const std::vector<KeptContribution>& contributions);

  std::map<ChunkKey, std::vector<KeptContribution>> contributions_;
  std::map<ChunkKey, KeptResult> results_;
  std::map<Rank, std::uint32_t> kept_;
};

}  // namespace papilio::engine
