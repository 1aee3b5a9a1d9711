// From names to messages: the producing half of a group.
#include <cstring>

#include "core/crc32c.hpp"
#include "engine/group_runtime.hpp"

namespace papilio::engine {

bool GroupRuntime::produce(Rank to, Outgoing& out, bool& starved) {
  if (!joined_.contains(to) || machine_.members().at(to).link == fault::Member::Link::gone) {
    return false;
  }
  return produceResult(to, out, starved) || (!starved && produceBlock(to, out, starved)) ||
         (!starved && produceMessage(to, out, starved)) ||
         (!starved && produceContribution(to, out, starved));
}

void GroupRuntime::seal(DataHeader header, Outgoing& out) const {
  header.group = config_.id;
  header.incarnation = incarnation_;
  header.view = machine_.view();
  header.src = config_.rank;
  header.payload_bytes = out.payload ? out.payload.size() : 0;
  encode(header, out.header);
}

bool GroupRuntime::stage(std::span<const std::byte> bytes, Outgoing& out, DataHeader& header) {
  out.payload = host_.pool().tryAllocate(static_cast<std::uint32_t>(bytes.size()));
  if (!out.payload) return false;
  if (config_.options.payload_crc) {
    header.payload_crc = copyWithCrc32c(out.payload.data(), bytes);
  } else {
    std::memcpy(out.payload.data(), bytes.data(), bytes.size());
  }
  return true;
}

bool GroupRuntime::produceResult(Rank to, Outgoing& out, bool& starved) {
  auto& queue = outboxes_[to.value].results();
  while (!queue.empty()) {
    Outbox::Result& item = queue.front();
    if (item.payload) {
      out.payload = std::move(item.payload);
    } else {
      const auto local = locals_.find(item.header.seq);
      if (local == locals_.end()) {  // the round ended meanwhile
        queue.pop_front();
        continue;
      }
      const ChunkIndex chunk = item.header.chunk;
      if (!stageChunk(item.header.seq, local->second, chunk, Staged::result, out, item.header)) {
        starved = true;
        return false;
      }
    }
    damage_.sends(TestPhase::returning, item.header.seq, item.header.chunk, to, host_.pool(),
                  out.payload);
    hook_.whenPosted(TestPhase::returning, item.header.seq);
    seal(item.header, out);
    queue.pop_front();
    return true;
  }
  return false;
}

bool GroupRuntime::produceBlock(Rank to, Outgoing& out, bool& starved) {
  auto& queue = outboxes_[to.value].blocks();
  while (!queue.empty()) {
    Outbox::Blocks& item = queue.front();
    const auto local = locals_.find(item.seq);
    if (local == locals_.end() || !local->second.strict) {
      queue.pop_front();
      continue;
    }
    const auto& piece = local->second.strict->phases[item.phase].pieces[to.value];
    const std::uint64_t offset = std::uint64_t{item.next} * block_bytes_;
    const std::uint64_t size = std::min<std::uint64_t>(block_bytes_, piece.send_bytes - offset);
    DataHeader header;
    header.type = MessageType::block;
    header.seq = item.seq;
    header.schema = schemaOf(local->second.shape, config_.id, machine_.view());
    header.chunk = ChunkIndex{item.next};
    header.attempt = item.phase;
    if (!stage({piece.send + offset, size}, out, header)) {
      starved = true;
      return false;
    }
    seal(header, out);
    ++item.next;
    if (offset + size >= piece.send_bytes) {
      const Outbox::Blocks sent = item;
      queue.pop_front();
      machine_.blocksPosted(host_.now(), to, sent.seq, sent.phase);
      drain();
    }
    return true;
  }
  return false;
}

bool GroupRuntime::produceContribution(Rank to, Outgoing& out, bool& starved) {
  Outbox& outbox = outboxes_[to.value];
  while (const auto* next = outbox.nextContribution()) {
    const Outbox::Contribution item = *next;
    const auto it = locals_.find(item.seq);
    if (it == locals_.end() || !machine_.wantsSend(to, item.seq, item.chunk)) {
      outbox.drop(item);
      continue;
    }
    const Local& local = it->second;
    DataHeader header = machine_.contributionHeader(item.seq, item.chunk);
    header.attempt = item.attempt;
    const bool listens = (header.flags & kListens) != 0;
    if (!listens && !stageChunk(item.seq, local, item.chunk, Staged::contribution, out, header)) {
      starved = true;
      return false;
    }
    outbox.take(item);
    damage_.sends(TestPhase::contributing, item.seq, item.chunk, to, host_.pool(), out.payload);
    hook_.whenPosted(TestPhase::contributing, item.seq);
    seal(header, out);
    return true;
  }
  return false;
}

}  // namespace papilio::engine
