// What one group still has to send to one rank. Results go first (others wait for them), then
// blocks of strict collectives, point-to-point messages, and contributions within their credits.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <utility>

#include "core/ids.hpp"
#include "core/wire.hpp"
#include "engine/block_pool.hpp"

namespace papilio::engine {

class Outbox {
 public:
  // A kept result holds its own reference: the round may be forgotten before a slow peer took it.
  struct Result {
    DataHeader header;
    BlockRef payload;  // empty: `header` names a chunk of the unfinished tensor
  };
  // One piece of a strict phase, cut into blocks as it is sent.
  struct Blocks {
    Seq seq;
    std::uint16_t phase = 0;
    std::uint32_t next = 0;  // block index
  };
  // A point-to-point message that the other side is ready for.
  struct Message {
    Seq id;
    std::uint32_t next = 0;  // block index
  };
  struct Contribution {
    Seq seq;
    ChunkIndex chunk;
    Rank owner;
    std::uint16_t attempt = 0;
  };

  explicit Outbox(std::uint32_t credits) : credits_(credits) {}

  void push(Result item) { results_.push_back(std::move(item)); }
  void push(const Blocks& item) { blocks_.push_back(item); }
  void push(const Message& item) { messages_.push_back(item); }
  void push(const Contribution& item);

  std::deque<Result>& results() { return results_; }
  std::deque<Blocks>& blocks() { return blocks_; }
  std::deque<Message>& messages() { return messages_; }

  // The next contribution that has a credit; nullptr when there is none. take() removes it and
  // spends the credit, drop() only removes it.
  const Contribution* nextContribution();
  void take(const Contribution& item);
  void drop(const Contribution& item);
  // The chunk is settled: its credit is free again.
  void settled(Seq seq, ChunkIndex chunk, Rank owner);
  // Forgets queued contributions and blocks of the round and frees its credits.
  void dropContributions(Seq seq);
  void dropBlocks(Seq seq);
  void clear();

  bool empty() const;
  // Nothing owed that others wait for (contributions do not count).
  bool flushed() const { return results_.empty() && blocks_.empty() && messages_.empty(); }

 private:
  // Contributions to one owner's shard. Every rank sends a shard's chunks in ascending order, so
  // with credits per shard the reducer always has one chunk that all senders have reached: no
  // deadlock between senders whose credits are spent on different chunks.
  struct Shard {
    std::deque<Contribution> queue;
    std::set<std::pair<Seq, ChunkIndex>> in_flight;
  };

  static bool holdsCredit(const Shard& shard, const Contribution& item);

  std::uint32_t credits_;
  std::deque<Result> results_;
  std::deque<Blocks> blocks_;
  std::deque<Message> messages_;
  std::map<Rank, Shard> shards_;
};

}  // namespace papilio::engine
