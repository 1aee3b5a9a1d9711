// What a simulated node still has to send to one peer. Results first, then blocks, then
// contributions, of which only kCreditsPerShard per shard may be unanswered.
#pragma once

#include <deque>
#include <map>
#include <set>
#include <utility>

#include "core/wire.hpp"
#include "sim/network.hpp"

namespace papilio::sim {

struct QueuedResult {
  DataHeader header;
  SharedBytes payload;
};
struct QueuedBlocks {
  Seq seq;
  std::uint16_t phase = 0;
  std::uint32_t next = 0;
};
struct QueuedContribution {
  Seq seq;
  ChunkIndex chunk;
  std::uint16_t attempt = 0;
};

struct Outbox {
  static constexpr std::uint32_t kWindow = 16;  // messages on the wire

  struct Shard {
    std::deque<QueuedContribution> queue;
    std::set<std::pair<Seq, ChunkIndex>> unanswered;
  };
  std::deque<QueuedResult> results;
  std::deque<QueuedBlocks> blocks;
  std::map<Rank, Shard> shards;  // by owner
  std::uint32_t on_wire = 0;

  void answered(Seq seq, ChunkIndex chunk) {
    for (auto& [owner, shard] : shards) shard.unanswered.erase({seq, chunk});
  }
  void drop(Seq seq) {
    for (auto& [owner, shard] : shards) {
      std::erase_if(shard.queue, [&](const auto& item) { return item.seq == seq; });
      std::erase_if(shard.unanswered, [&](const auto& key) { return key.first == seq; });
    }
  }
  void clear() {
    results.clear();
    blocks.clear();
    shards.clear();
  }
  std::size_t queued() const {
    std::size_t total = results.size() + blocks.size();
    for (const auto& [owner, shard] : shards) total += shard.queue.size();
    return total;
  }
  std::size_t unanswered() const {
    std::size_t total = 0;
    for (const auto& [owner, shard] : shards) total += shard.unanswered.size();
    return total;
  }
};

}  // namespace papilio::sim
