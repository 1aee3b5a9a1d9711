// Point-to-point messages: what the p2p machine decided, and the bytes.
#include <algorithm>
#include <cstring>

#include "core/crc32c.hpp"
#include "engine/group_runtime.hpp"

namespace papilio::engine {

namespace {
// Pieces have no schema; the header wants one.
constexpr SchemaHash kNoSchema{1};
}  // namespace

void GroupRuntime::exchange(Seq id, const MessageRequest& request, Duration timeout,
                            Clock::time_point issued, DoneFn done) {
  messages_[id] = {request.data, request.bytes, request.shape, issued, std::move(done)};
  fault::p2p::Operation operation;
  operation.id = id;
  operation.peer = request.peer;
  operation.tag = request.tag;
  operation.bytes = request.bytes;
  operation.blocks = static_cast<std::uint32_t>((request.bytes + block_bytes_ - 1) / block_bytes_);
  operation.deadline = host_.now() + timeout;
  if (request.sends) {
    p2p_.send(operation);
  } else {
    p2p_.receive(operation);
  }
  drainMessages();
}

void GroupRuntime::drainMessages() {
  for (auto effects = p2p_.takeEffects(); !effects.empty(); effects = p2p_.takeEffects()) {
    for (const auto& effect : effects) {
      std::visit([&](const auto& e) { perform(e); }, effect);
    }
  }
}

void GroupRuntime::perform(const fault::p2p::SendControl& e) {
  if (!joined_.contains(e.to)) return;
  host_.sendControl(peers_[e.to.value], ControlMessage{config_.id, e.body});
}

void GroupRuntime::perform(const fault::p2p::SendBlocks& e) {
  outboxes_[e.to.value].push(Outbox::Message{e.id, 0});
  host_.hasWork(peers_[e.to.value]);
}

void GroupRuntime::perform(const fault::p2p::Finish& e) {
  const auto it = messages_.find(e.id);
  if (it == messages_.end()) return;
  const Message message = std::move(it->second);
  messages_.erase(it);
  Completion completion;
  completion.seq = e.id;
  completion.error = e.error;
  completion.peer = e.peer;
  completion.report.seq = Seq{e.id.value - kMessageNumbers};
  completion.report.view = machine_.view();
  completion.report.shape = message.shape;
  completion.report.nbytes = message.bytes;
  completion.report.elapsed = Clock::now() - message.issued;
  if (e.error) completion.report.outcome = fault::Outcome::local;
  if (message.done) message.done(completion);
}

bool GroupRuntime::produceMessage(Rank to, Outgoing& out, bool& starved) {
  auto& queue = outboxes_[to.value].messages();
  while (!queue.empty()) {
    auto& item = queue.front();
    const auto it = messages_.find(item.id);
    if (it == messages_.end()) {  // it failed meanwhile
      queue.pop_front();
      continue;
    }
    const std::uint64_t offset = std::uint64_t{item.next} * block_bytes_;
    const std::uint64_t size = std::min<std::uint64_t>(block_bytes_, it->second.bytes - offset);
    DataHeader header;
    header.type = MessageType::piece;
    header.seq = item.id;
    header.schema = kNoSchema;
    header.chunk = ChunkIndex{item.next};
    if (!stage({it->second.data + offset, size}, out, header)) {
      starved = true;
      return false;
    }
    seal(header, out);
    ++item.next;
    if (offset + size >= it->second.bytes) {
      const Seq sent = item.id;
      queue.pop_front();
      p2p_.posted(sent);
      drainMessages();
    }
    return true;
  }
  return false;
}

void GroupRuntime::piece(Rank from, const DataHeader& header, std::span<const std::byte> payload) {
  const auto id = p2p_.wants(from, header.seq, header.chunk.value);
  const auto it = id ? messages_.find(*id) : messages_.end();
  if (it == messages_.end()) return;
  const Message& message = it->second;
  const std::uint64_t offset = std::uint64_t{header.chunk.value} * block_bytes_;
  const bool fits = offset < message.bytes &&
                    payload.size() == std::min<std::uint64_t>(block_bytes_, message.bytes - offset);
  const bool intact =
      fits && (!config_.options.payload_crc || crc32c(payload) == header.payload_crc);
  if (intact) {
    std::memcpy(message.data + offset, payload.data(), payload.size());
    p2p_.placed(from, header.seq, header.chunk.value);
  } else {
    p2p_.damaged(from, header.seq);
  }
  drainMessages();
}

}  // namespace papilio::engine
