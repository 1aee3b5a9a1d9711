#include "engine/outbox.hpp"

#include <algorithm>

namespace papilio::engine {

void Outbox::push(const Contribution& item) {
  Shard& shard = shards_[item.owner];
  // A repeat after damage goes first: it holds a credit, and when all credits are held by chunks
  // that came damaged, nothing else can go.
  if (holdsCredit(shard, item)) {
    shard.queue.push_front(item);
  } else {
    shard.queue.push_back(item);
  }
}

bool Outbox::holdsCredit(const Shard& shard, const Contribution& item) {
  return shard.in_flight.count({item.seq, item.chunk}) != 0;
}

const Outbox::Contribution* Outbox::nextContribution() {
  for (auto& [owner, shard] : shards_) {
    if (shard.queue.empty()) continue;
    const auto& item = shard.queue.front();
    if (holdsCredit(shard, item) || shard.in_flight.size() < credits_) return &item;
  }
  return nullptr;
}

void Outbox::take(const Contribution& item) {
  Shard& shard = shards_[item.owner];
  shard.in_flight.insert({item.seq, item.chunk});
  shard.queue.pop_front();
}

void Outbox::drop(const Contribution& item) { shards_[item.owner].queue.pop_front(); }

void Outbox::settled(Seq seq, ChunkIndex chunk, Rank owner) {
  const auto it = shards_.find(owner);
  if (it != shards_.end()) it->second.in_flight.erase({seq, chunk});
}

void Outbox::dropContributions(Seq seq) {
  for (auto& [owner, shard] : shards_) {
    std::erase_if(shard.queue, [&](const Contribution& item) { return item.seq == seq; });
    std::erase_if(shard.in_flight, [&](const auto& entry) { return entry.first == seq; });
  }
}

void Outbox::dropBlocks(Seq seq) {
  std::erase_if(blocks_, [&](const Blocks& item) { return item.seq == seq; });
}

void Outbox::clear() {
  results_.clear();
  blocks_.clear();
  messages_.clear();
  shards_.clear();
}

bool Outbox::empty() const {
  return flushed() && std::all_of(shards_.begin(), shards_.end(),
                                  [](const auto& entry) { return entry.second.queue.empty(); });
}

}  // namespace papilio::engine
