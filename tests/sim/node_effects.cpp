// A simulated node performs what its machine decided.
#include <algorithm>
#include <cmath>

#include "core/crc32c.hpp"
#include "sim/node.hpp"

namespace papilio::sim {

using namespace fault;

namespace {

bool hasNan(DType dtype, const Bytes& bytes) {
  bool found = false;
  withType(dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (std::is_floating_point_v<T>) {
      for (std::size_t at = 0; at < bytes.size(); at += sizeof(T)) {
        T value;
        std::memcpy(&value, bytes.data() + at, sizeof(T));
        found = found || !std::isfinite(value);
      }
    }
  });
  return found;
}

double factorFor(const RoundShape& shape, std::uint32_t n, double weight) {
  if (weight <= 0) return 0;
  return shape.op == ReduceOp::avg ? 1.0 / weight : static_cast<double>(n) * shape.premul / weight;
}

}  // namespace

void Node::drain() {
  if (draining_) return;
  draining_ = true;
  for (Effects effects = machine_.takeEffects(); !effects.empty();
       effects = machine_.takeEffects()) {
    for (auto& effect : effects) {
      std::visit([&](auto& e) { perform(e); }, effect);
    }
  }
  draining_ = false;
}

void Node::perform(const effect::SendContribution& e) {
  const auto it = locals_.find(e.seq);
  if (it == locals_.end()) return;
  const Rank owner = it->second.layout.owner(e.chunk);
  outboxes_[e.to.value].shards[owner].queue.push_back({e.seq, e.chunk, e.attempt});
}

void Node::perform(const effect::DropContributions& e) { outboxes_[e.to.value].drop(e.seq); }

void Node::perform(const effect::SendResult& e) {
  const auto it = results_.find({e.seq, e.schema, e.chunk});
  DataHeader header = machine_.resultHeader(e.seq, e.schema, e.chunk);
  if (it == results_.end() || header.contributors.empty()) return;
  header.flags |= e.flags;
  header.payload_crc = it->second.crc;
  outboxes_[e.to.value].results.push_back({header, it->second.bytes});
}

void Node::perform(const effect::SendHeld& e) {
  const DataHeader header = machine_.heldHeader(e.seq, e.chunk);
  const auto local = locals_.find(e.seq);
  if (e.to == me_ || header.contributors.empty() || local == locals_.end()) return;
  const std::byte* start = chunkAt(local->second, e.chunk);
  const auto bytes = local->second.layout.bytes(e.chunk);
  outboxes_[e.to.value].results.push_back(
      {header, std::make_shared<const Bytes>(start, start + bytes)});
}

void Node::perform(const effect::Relay& e) {
  const DataHeader header = machine_.relayHeader(e.seq, e.chunk);
  const auto local = locals_.find(e.seq);
  if (header.contributors.empty() || local == locals_.end()) return;
  const std::byte* start = chunkAt(local->second, e.chunk);
  const auto bytes =
      std::make_shared<const Bytes>(start, start + local->second.layout.bytes(e.chunk));
  e.to.forEach([&](Rank to) {
    if (lost_.count(to) == 0) outboxes_[to.value].results.push_back({header, bytes});
  });
}

void Node::perform(const effect::Reduce& e) {
  const RoundShape* shape = machine_.shapeOf(e.seq, e.schema);
  if (shape == nullptr) return;
  const Layout layout(shape->numel, elementSize(shape->dtype), work_.size(), e.seq);
  const Key key{e.seq, e.schema, e.chunk};
  std::map<Rank, Kept> inputs;
  for (auto& kept : contributions_[key]) {
    if (e.contributors.contains(kept.rank)) inputs.emplace(kept.rank, std::move(kept));
  }
  contributions_.erase(key);
  const auto local = locals_.find(e.seq);
  if (e.contributors.contains(me_) && local != locals_.end() && local->second.schema == e.schema &&
      machine_.holdsInput(e.seq, e.chunk)) {
    const std::byte* start = chunkAt(local->second, e.chunk);
    const DataHeader mine = machine_.contributionHeader(e.seq, e.chunk);
    inputs.emplace(me_, Kept{me_, mine.weight, (mine.flags & kOfHost) != 0,
                             std::make_shared<const Bytes>(start, start + layout.bytes(e.chunk))});
  }
  std::vector<Rank> bad;
  for (const auto& [rank, kept] : inputs) {
    if (hasNan(shape->dtype, *kept.bytes)) bad.push_back(rank);
  }
  if (plan_.options.nonfinite == NonFinite::drop && inputs.size() > 2 &&
      bad.size() * 2 < inputs.size()) {
    for (const Rank rank : bad) inputs.erase(rank);
  }
  ContributorSet actual;
  double weight = 0;
  for (const auto& [rank, kept] : inputs) {
    actual.insert(rank);
    weight += static_cast<double>(kept.weight);
  }
  Bytes out(layout.bytes(e.chunk));
  const double factor = factorFor(*shape, work_.size(), weight);
  withType(shape->dtype, [&](auto type) {
    using T = decltype(type);
    for (std::size_t at = 0; at < out.size(); at += sizeof(T)) {
      double sum = 0;
      for (const auto& [rank, kept] : inputs) {
        T value;
        std::memcpy(&value, kept.bytes->data() + at, sizeof(T));
        sum += static_cast<double>(value) * (kept.of_host ? 1.0 : static_cast<double>(kept.weight));
      }
      const T value = static_cast<T>(sum * factor);
      std::memcpy(out.data() + at, &value, sizeof(T));
    }
  });
  const std::uint32_t crc = crc32c(out);
  if (!actual.empty()) results_[key] = {std::make_shared<const Bytes>(std::move(out)), crc};
  machine_.reduced(now(), e.seq, e.schema, e.chunk, actual);
}

void Node::perform(const effect::ApplyOwn& e) {
  const auto local = locals_.find(e.seq);
  const auto kept = results_.find({e.seq, e.schema, e.chunk});
  if (local == locals_.end() || kept == results_.end()) return;
  const Bytes& bytes = *kept->second.bytes;
  std::copy(bytes.begin(), bytes.end(), chunkAt(local->second, e.chunk));
  settled(e.seq, e.chunk);
}

void Node::perform(const effect::FillLocal& e) {
  const auto it = locals_.find(e.seq);
  if (it == locals_.end()) return;
  Local& local = it->second;
  const RoundShape& shape = local.shape;
  const bool zero = plan_.options.fallback == Fallback::zero;
  const auto within = local.layout.range(e.chunk);
  withType(shape.dtype, [&](auto type) {
    using T = decltype(type);
    for (std::uint64_t i = within.start; i < within.stop; ++i) {
      double weight = 1.0;
      for (const auto& range : local.host.ranges) {
        if (i >= range.start && i < range.stop) weight = range.weight;
      }
      T value;
      std::memcpy(&value, local.tensor.data() + i * sizeof(T), sizeof(T));
      const double factor = factorFor(shape, work_.size(), weight);
      value = zero ? T{} : static_cast<T>(static_cast<double>(value) * factor);
      std::memcpy(local.tensor.data() + i * sizeof(T), &value, sizeof(T));
    }
  });
  settled(e.seq, e.chunk);
}

void Node::settled(Seq seq, ChunkIndex chunk) {
  for (auto& outbox : outboxes_) outbox.answered(seq, chunk);
}

void Node::perform(const effect::SendControl& e) {
  if (e.to == me_ || lost_.count(e.to) != 0) return;
  say("-> " + std::to_string(e.to.value) + " " + describe(e.body));
  network_.sendControl(me_, e.to, encode(ControlMessage{kGroup, e.body}));
}

void Node::perform(effect::Finish& e) {
  const auto it = locals_.find(e.seq);
  if (it == locals_.end()) return;
  Finished done{e.seq,
                it->second.shape,
                std::move(e.report),
                std::move(e.error),
                std::move(it->second.tensor),
                now() - it->second.entered,
                it->second.entered_at};
  locals_.erase(it);
  ++finished_;
  for (auto& outbox : outboxes_) {
    outbox.drop(e.seq);
    std::erase_if(outbox.blocks, [&](const auto& item) { return item.seq == e.seq; });
  }
  observer_.finished(me_, done);
  const bool out =
      done.error.kind == ErrorKind::schema_mismatch || done.error.kind == ErrorKind::evicted;
  if (!out || !plan_.stops_on_mismatch || stopped_) return;
  stopped_ = true;
  observer_.leaving(me_);
  queue_.after(1ms, [this] { leave(); });
}

void Node::perform(const effect::Forget& e) {
  const auto matches = [&](const auto& entry) {
    return std::get<0>(entry.first) == e.seq && std::get<1>(entry.first) == e.schema;
  };
  std::erase_if(contributions_, matches);
  std::erase_if(results_, matches);
}

void Node::perform(const effect::Discard& e) { contributions_.erase({e.seq, e.schema, e.chunk}); }

void Node::perform(const effect::SendBlocks& e) {
  outboxes_[e.to.value].blocks.push_back({e.seq, e.phase, 0});
}

void Node::perform(const effect::RunPhase& e) {
  const auto it = locals_.find(e.seq);
  if (it == locals_.end() || !it->second.strict) return;
  const auto& then = it->second.strict->phases[e.phase].then;
  if (then) then(e.members);
}

void Node::perform(const effect::Notify& e) {
  say(std::string("EVENT ") + name(e.event.kind) + " rank " + std::to_string(e.event.rank.value) +
      " (" + name(e.event.reason) + ") seq " + std::to_string(e.event.seq.value) + ": " +
      e.event.detail);
  observer_.noticed(me_, e.event);
}

}  // namespace papilio::sim
