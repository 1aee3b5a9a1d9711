// From names to messages: what a simulated node puts on the wire, and when.
#include "core/crc32c.hpp"
#include "sim/node.hpp"

namespace papilio::sim {

void Node::pump(Rank to) {
  if (to == me_ || lost_.count(to) != 0) return;
  while (state_ == State::running && outboxes_[to.value].on_wire < Outbox::kWindow) {
    if (!sendNext(to)) return;
  }
}

bool Node::sendNext(Rank to) { return sendResult(to) || sendBlock(to) || sendContribution(to); }

void Node::transmit(Rank to, DataHeader header, SharedBytes payload) {
  header.group = kGroup;
  header.incarnation = Incarnation{me_.value + 1};
  header.view = machine_.view();
  header.src = me_;
  header.payload_bytes = static_cast<std::uint32_t>(payload->size());
  if (header.payload_crc == 0) header.payload_crc = crc32c(*payload);
  EncodedHeader encoded;
  encode(header, encoded);
  const auto view = encoded.view();
  ++outboxes_[to.value].on_wire;
  network_.sendData(me_, to, std::make_shared<const Bytes>(view.begin(), view.end()),
                    std::move(payload), [this, to] {
                      --outboxes_[to.value].on_wire;
                      if (state_ == State::running) run([this, to] { pump(to); });
                    });
}

bool Node::sendResult(Rank to) {
  auto& queue = outboxes_[to.value].results;
  if (queue.empty()) return false;
  QueuedResult item = std::move(queue.front());
  queue.pop_front();
  transmit(to, item.header, std::move(item.payload));
  return true;
}

bool Node::sendBlock(Rank to) {
  auto& queue = outboxes_[to.value].blocks;
  while (!queue.empty()) {
    QueuedBlocks& item = queue.front();
    const auto local = locals_.find(item.seq);
    if (local == locals_.end()) {
      queue.pop_front();
      continue;
    }
    const Bytes& all = local->second.strict->sendOf(item.phase, to);
    const std::uint64_t block = maxChunkBytes(work_.size());
    const std::uint64_t start = item.next * block;
    const std::uint64_t stop = std::min<std::uint64_t>(start + block, all.size());
    DataHeader header;
    header.type = MessageType::block;
    header.seq = item.seq;
    header.schema = local->second.schema;
    header.chunk = ChunkIndex{item.next++};
    header.attempt = item.phase;
    const QueuedBlocks sent = item;
    auto payload = std::make_shared<const Bytes>(all.begin() + static_cast<std::ptrdiff_t>(start),
                                                 all.begin() + static_cast<std::ptrdiff_t>(stop));
    transmit(to, header, std::move(payload));
    if (stop == all.size()) {
      queue.pop_front();
      machine_.blocksPosted(now(), to, sent.seq, sent.phase);
      drain();
    }
    return true;
  }
  return false;
}

bool Node::sendContribution(Rank to) {
  for (auto& [owner, shard] : outboxes_[to.value].shards) {
    while (!shard.queue.empty()) {
      const QueuedContribution item = shard.queue.front();
      const std::pair key{item.seq, item.chunk};
      const auto local = locals_.find(item.seq);
      if (local == locals_.end() || !machine_.wantsSend(to, item.seq, item.chunk)) {
        shard.queue.pop_front();
        continue;
      }
      const bool again = shard.unanswered.count(key) != 0;
      if (!again && shard.unanswered.size() >= kCreditsPerShard) break;
      shard.queue.pop_front();
      shard.unanswered.insert(key);
      DataHeader header = machine_.contributionHeader(item.seq, item.chunk);
      header.attempt = item.attempt;
      const std::byte* start = chunkAt(local->second, item.chunk);
      const bool listens = (header.flags & kListens) != 0;
      const auto bytes = listens ? 0 : local->second.layout.bytes(item.chunk);
      transmit(to, header, std::make_shared<const Bytes>(start, start + bytes));
      return true;
    }
  }
  return false;
}

}  // namespace papilio::sim
