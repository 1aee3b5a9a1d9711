// Performs what the machine decided.
#include <cstring>

#include "core/crc32c.hpp"
#include "engine/group_runtime.hpp"
#include "engine/kernels.hpp"

namespace papilio::engine {

using namespace fault;

void GroupRuntime::drain() {
  if (draining_) return;  // the outer call goes on until nothing is left
  draining_ = true;
  struct Reset {  // also when an effect throws
    bool& flag;
    ~Reset() { flag = false; }
  } const reset{draining_};
  for (Effects effects = machine_.takeEffects(); !effects.empty();
       effects = machine_.takeEffects()) {
    for (auto& effect : effects) {
      std::visit([&](auto& e) { perform(e); }, effect);
    }
  }
}

void GroupRuntime::perform(const effect::SendContribution& e) {
  const auto it = locals_.find(e.seq);
  if (it == locals_.end()) return;
  const Rank owner = it->second.layout.owner(e.chunk);
  outboxes_[e.to.value].push(Outbox::Contribution{e.seq, e.chunk, owner, e.attempt});
  host_.hasWork(peers_[e.to.value]);
}

void GroupRuntime::perform(const effect::DropContributions& e) {
  outboxes_[e.to.value].dropContributions(e.seq);
  host_.hasWork(peers_[e.to.value]);  // credits came free
}

void GroupRuntime::perform(const effect::SendResult& e) {
  const auto* kept = buffers_.result({e.seq, e.schema, e.chunk});
  DataHeader header = machine_.resultHeader(e.seq, e.schema, e.chunk);
  if (e.to == config_.rank || kept == nullptr || header.contributors.empty()) return;
  header.flags |= e.flags;
  header.payload_crc = kept->crc;
  outboxes_[e.to.value].push(Outbox::Result{header, kept->block});
  host_.hasWork(peers_[e.to.value]);
}

void GroupRuntime::perform(const effect::SendHeld& e) {
  DataHeader header = machine_.heldHeader(e.seq, e.chunk);
  const auto local = locals_.find(e.seq);
  if (e.to == config_.rank || header.contributors.empty() || local == locals_.end()) return;
  // Copied now: the round may be over, and its tensor gone, before this can be sent.
  const auto bytes = static_cast<std::uint32_t>(local->second.layout.payload(e.chunk));
  BlockRef block = host_.pool().allocate(bytes);
  header.payload_crc = encodeChunk(e.seq, local->second, e.chunk, Staged::result, block.data());
  outboxes_[e.to.value].push(Outbox::Result{header, std::move(block)});
  host_.hasWork(peers_[e.to.value]);
}

void GroupRuntime::perform(const effect::Relay& e) {
  DataHeader header = machine_.relayHeader(e.seq, e.chunk);
  const auto local = locals_.find(e.seq);
  if (header.contributors.empty() || local == locals_.end()) return;
  const auto bytes = static_cast<std::uint32_t>(local->second.layout.payload(e.chunk));
  BlockRef block = host_.pool().allocate(bytes);
  header.payload_crc = encodeChunk(e.seq, local->second, e.chunk, Staged::result, block.data());
  e.to.forEach([&](Rank to) {
    if (to == config_.rank) return;
    outboxes_[to.value].push(Outbox::Result{header, block});
    host_.hasWork(peers_[to.value]);
  });
}

Factor GroupRuntime::factorFor(const RoundShape& shape, double weight_sum) const {
  if (sums(shape)) return 1.0;
  if (weight_sum <= 0) return 0.0;
  if (config_.options.of_host) return {1.0, weight_sum};
  if (shape.op == ReduceOp::avg) return {1.0, weight_sum};
  return {static_cast<double>(config_.size) * shape.premul, weight_sum};
}

ContributorSet GroupRuntime::reduceInto(const effect::Reduce& e, const RoundShape& shape,
                                        std::uint64_t numel, std::byte* out) {
  const auto kept = buffers_.takeContributions({e.seq, e.schema, e.chunk});
  const auto local = locals_.find(e.seq);
  ReduceSet set;
  const auto add = [&](Rank rank, const std::byte* data, float weight, bool of_host) {
    // Sums are weighted already.
    const float factor = of_host && combinedIsSum(shape.dtype) ? 1.0F : weight;
    set.inputs.push_back({data, factor, rank != config_.rank});
    set.weights.push_back(static_cast<double>(weight));
    set.ranks.push_back(rank);
  };
  e.contributors.forEach([&](Rank rank) {
    if (rank == config_.rank) {
      // The tensor may have been completed from elsewhere since the machine decided.
      const bool intact = local != locals_.end() && local->second.schema == e.schema &&
                          machine_.holdsInput(e.seq, e.chunk);
      if (!intact) return;
      const DataHeader mine = machine_.contributionHeader(e.seq, e.chunk);
      add(rank, chunkData(local->second, e.chunk), mine.weight, (mine.flags & kOfHost) != 0);
      return;
    }
    for (const auto& contribution : kept) {
      if (contribution.rank != rank) continue;
      add(rank, contribution.block.data(), contribution.weight, contribution.of_host);
    }
  });
  reduceInputs(shape, numel, set, out);
  ContributorSet actual;
  for (const Rank rank : set.ranks) actual.insert(rank);
  return actual;
}

void GroupRuntime::perform(const effect::Reduce& e) {
  const RoundShape* found = machine_.shapeOf(e.seq, e.schema);
  if (found == nullptr) return;
  hook_.at(TestPhase::reducing, e.seq);
  const RoundShape shape = *found;
  const Layout layout = layoutOf(shape, e.seq);
  KeptResult result;
  result.block = host_.pool().allocate(static_cast<std::uint32_t>(layout.payload(e.chunk)));
  const auto actual = reduceInto(e, shape, layout.range(e.chunk).size(), result.block.data());
  if (!actual.empty()) {
    if (config_.options.payload_crc) result.crc = crc32c(result.block.view());
    buffers_.keepResult({e.seq, e.schema, e.chunk}, std::move(result));
  }
  machine_.reduced(host_.now(), e.seq, e.schema, e.chunk, actual);
}

void GroupRuntime::perform(const effect::ApplyOwn& e) {
  const auto local = locals_.find(e.seq);
  const auto* kept = buffers_.result({e.seq, e.schema, e.chunk});
  if (local == locals_.end() || kept == nullptr) return;
  decodeChunk(local->second, e.chunk, kept->block.data());
  release(e.seq, e.chunk, local->second.layout.owner(e.chunk));
}

void GroupRuntime::perform(const effect::FillLocal& e) {
  const auto it = locals_.find(e.seq);
  if (it == locals_.end()) return;
  const Local& local = it->second;
  std::byte* data = chunkData(local, e.chunk);
  const auto within = local.layout.range(e.chunk);
  const auto numel = within.size();
  if (local.shape.codec == Codec::reference) {
    // The caller sees to it.
  } else if (config_.options.fallback == Fallback::zero) {
    std::memset(data, 0, local.layout.bytes(e.chunk));
  } else if (!local.ranges.empty()) {
    makeWhole(local.ranges, local.shape, local.data, within.start, within.stop);
  } else if (config_.options.of_host) {
    if (sums(local.shape)) {
      scale(local.shape.dtype, data, numel, static_cast<double>(config_.options.weight));
    }
  } else if (local.shape.op != ReduceOp::avg) {
    scale(local.shape.dtype, data, numel, static_cast<double>(config_.size) * local.shape.premul);
  }
  release(e.seq, e.chunk, local.layout.owner(e.chunk));
}

// The chunk is settled: whoever was to reduce it has room for the next one.
void GroupRuntime::release(Seq seq, ChunkIndex chunk, Rank owner) {
  for (std::uint32_t r = 0; r < config_.size; ++r) {
    if (Rank{r} == config_.rank) continue;
    outboxes_[r].settled(seq, chunk, owner);
    if (!outboxes_[r].empty()) host_.hasWork(peers_[r]);
  }
}

void GroupRuntime::perform(const effect::SendControl& e) {
  if (e.to == config_.rank || !joined_.contains(e.to)) return;
  host_.sendControl(peers_[e.to.value], ControlMessage{config_.id, e.body});
}

void GroupRuntime::perform(const effect::Ping& e) {
  if (joined_.contains(e.to)) host_.ping(peers_[e.to.value]);
}

void GroupRuntime::perform(effect::Finish& e) {
  const auto it = locals_.find(e.seq);
  if (it == locals_.end()) return;
  const Local local = std::move(it->second);
  locals_.erase(it);
  for (auto& outbox : outboxes_) {
    outbox.dropContributions(e.seq);
    outbox.dropBlocks(e.seq);
  }
  e.report.elapsed = Clock::now() - local.issued;
  Completion completion{e.seq, e.report, std::move(e.error), std::nullopt};
  {
    std::lock_guard lock(shared_->mutex);
    shared_->reports.push_back(std::move(e.report));
    while (shared_->reports.size() > config_.report_history) shared_->reports.pop_front();
  }
  if (local.done) local.done(completion);
}

void GroupRuntime::perform(const effect::Forget& e) { buffers_.forget(e.seq, e.schema); }

void GroupRuntime::perform(const effect::Discard& e) {
  buffers_.takeContributions({e.seq, e.schema, e.chunk});
}

void GroupRuntime::perform(const effect::SendBlocks& e) {
  outboxes_[e.to.value].push(Outbox::Blocks{e.seq, e.phase, 0});
  host_.hasWork(peers_[e.to.value]);
}

void GroupRuntime::perform(const effect::RunPhase& e) {
  const auto it = locals_.find(e.seq);
  if (it == locals_.end() || !it->second.strict) return;
  const auto& then = it->second.strict->phases[e.phase].then;
  if (then) then(e.members);
}

std::string GroupRuntime::prefix(Seq seq) const {
  return "papilio[rank " + std::to_string(config_.rank.value) + "/" + std::to_string(config_.size) +
         " " + config_.name + " seq " + std::to_string(seq.value) + "] ";
}

void GroupRuntime::perform(const effect::Notify& e) {
  const Event& event = e.event;
  const std::string peer = "peer " + std::to_string(event.rank.value);
  const std::string why = std::string(fault::name(event.reason)) + ": " + event.detail;
  if (config_.options.of_host) {  // the whole group says the same
    return host_.log(LogLevel::debug,
                     prefix(event.seq) + fault::name(event.kind) + " " + peer + " (" + why + ")");
  }
  switch (event.kind) {
    case EventKind::peer_lost:
      host_.log(event.reason == Reason::left ? LogLevel::info : LogLevel::warn,
                prefix(event.seq) + peer + " lost (" + why + "); going on without it");
      break;
    case EventKind::peer_slow:
      host_.log(LogLevel::warn, prefix(event.seq) + peer + " is late (" + event.detail +
                                    "); not waiting for it until it has caught up");
      break;
    case EventKind::blacklisted:
      host_.log(LogLevel::warn, prefix(event.seq) + peer + " blacklisted (" + why + ")");
      break;
    case EventKind::readmitted:
      host_.log(LogLevel::warn, prefix(event.seq) + peer + " readmitted (" + event.detail + ")");
      break;
    case EventKind::view: host_.log(LogLevel::warn, prefix(event.seq) + peer + " " + why); break;
    case EventKind::fallback: host_.log(LogLevel::info, prefix(event.seq) + event.detail); break;
    case EventKind::isolated: host_.log(LogLevel::warn, prefix(event.seq) + event.detail); break;
    default:
      host_.log(LogLevel::info,
                prefix(event.seq) + fault::name(event.kind) + " " + peer + " (" + why + ")");
  }
  if (config_.on_event) config_.on_event(event);
}

}  // namespace papilio::engine
