#include "engine/group_runtime.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "core/crc32c.hpp"
#include "engine/deadlines.hpp"

namespace papilio::engine {

namespace {

// A smaller contribution is copied: that costs less than a sender that has to wait for its memory.
constexpr std::size_t kWorthHolding = 64 * 1024;

fault::MachineConfig machineConfig(const GroupConfig& config, Incarnation incarnation) {
  fault::MachineConfig out;
  out.group = config.id;
  out.me = config.rank;
  out.size = config.size;
  out.options = config.options;
  out.seed = incarnation.value;
  out.view = config.view;
  out.absent = config.absent;
  out.absent_because = config.absent_because;
  out.hosts = config.hosts;
  return out;
}

fault::ViewChange::Config viewConfig(const GroupConfig& config, Incarnation incarnation) {
  fault::ViewChange::Config out;
  out.me = config.rank;
  out.members = ContributorSet::firstN(config.size) - config.absent;
  out.quorum = config.options.quorum;
  out.patience = config.options.patience;
  out.seed = incarnation.value;
  return out;
}

}  // namespace

GroupRuntime::GroupRuntime(GroupHost& host, GroupConfig config, std::vector<PeerId> peers,
                           Incarnation incarnation, std::shared_ptr<GroupShared> shared)
    : host_(host),
      config_(std::move(config)),
      peers_(std::move(peers)),
      incarnation_(incarnation),
      shared_(std::move(shared)),
      machine_(machineConfig(config_, incarnation)),
      p2p_(config_.rank, config_.size),
      views_(viewConfig(config_, incarnation)),
      outboxes_(config_.size, Outbox(kCreditsPerShard)),
      block_bytes_(maxChunkBytes(config_.size)),
      hook_(config_.options.of_host ? nullptr : std::getenv("PAPILIO_TEST_HOOK")),
      damage_(config_.options.of_host ? nullptr : std::getenv("PAPILIO_TEST_DAMAGE")) {
  joined_.insert(config_.rank);
  config_.absent.forEach([&](Rank rank) { p2p_.peerGone(rank, config_.absent_because); });
  shared_->boundaries = config_.boundaries;
  if (config_.view > ViewNumber{1}) announceView();
  if (config_.rank == Rank{0} && config_.view == ViewNumber{1} && !config_.options.of_host)
    host_.log(LogLevel::info, prefix(Seq{}) + describeDeadlines(config_.options));
}

std::optional<Rank> GroupRuntime::rankOf(PeerId peer) const {
  for (std::uint32_t r = 0; r < config_.size; ++r) {
    if (Rank{r} != config_.rank && peers_[r] == peer) return Rank{r};
  }
  return std::nullopt;
}

Layout GroupRuntime::layoutOf(const RoundShape& shape, Seq seq) const {
  return {shape.numel, elementSize(shape.dtype), config_.size, seq, config_.absent, shape.codec};
}

void GroupRuntime::beginAllreduce(Seq seq, const AllreduceRequest& request, Duration timeout,
                                  Clock::time_point issued, DoneFn done, fault::HostShare share) {
  Local& local = locals_[seq];
  local.data = static_cast<std::byte*>(request.data);
  local.shape = request.shape;
  // Within a host nothing is rounded: shared memory is faster than any codec.
  local.shape.codec = config_.options.of_host ? Codec::raw : config_.options.codec;
  if (request.by_reference) local.shape.codec = Codec::reference;
  local.schema = schemaOf(local.shape, config_.id, machine_.view());
  local.layout = layoutOf(local.shape, seq);
  local.issued = issued;
  local.done = std::move(done);
  hook_.at(TestPhase::before, seq);
  local.ranges = share.ranges;
  machine_.enterAllreduce(host_.now(), seq, local.shape, timeout, std::move(share));
  drain();
  takeEarly(seq);
}

void GroupRuntime::beginStrict(Seq seq, StrictRequest request, Duration timeout,
                               Clock::time_point issued, DoneFn done) {
  if (request.plan) request.phases = request.plan(machine_.members().present());
  fault::StrictSpec spec;
  spec.shape = request.shape;
  spec.needs_all = request.needs_all;
  spec.needed = request.needed;
  spec.nbytes = request.nbytes;
  for (const auto& phase : request.phases) {
    auto& exchange = spec.phases.emplace_back();
    for (const auto& piece : phase.pieces) {
      const auto blocks = (piece.recv_bytes + block_bytes_ - 1) / block_bytes_;
      exchange.push_back({static_cast<std::uint32_t>(blocks), piece.send_bytes != 0});
    }
  }
  Local& local = locals_[seq];
  local.shape = request.shape;
  local.strict = std::move(request);
  local.issued = issued;
  local.done = std::move(done);
  machine_.enterStrict(host_.now(), seq, std::move(spec), timeout);
  drain();
}

void GroupRuntime::cancel(Seq seq, fault::ErrorKind kind, const std::string& text) {
  if (seq.value >= kMessageNumbers) {
    p2p_.cancel(seq, kind, text);
    return drainMessages();
  }
  const auto queued = queue_.find(seq);
  if (queued != queue_.end()) {
    // Until it is over, what combines the data may write to the memory.
    if (queued->second.waits) {
      queued->second.ended = kind;
      queued->second.why = text;
      return;
    }
    auto node = queue_.extract(queued);
    endQueued(seq, std::move(node.mapped()), kind, text);
    return beginReady();
  }
  machine_.cancel(host_.now(), seq, kind, text);
  drain();
}

void GroupRuntime::abort(const std::string& why) {
  machine_.cancelAll(host_.now(), fault::ErrorKind::aborted, why);
  drain();
  endQueue(fault::ErrorKind::aborted, why);
  p2p_.cancelAll(fault::ErrorKind::aborted, why);
  drainMessages();
  answerBoundary({Boundary::Kind::ended, {}, {}});
}

void GroupRuntime::abandon(const std::string& why) {
  const auto end = [&](Seq seq, const RoundShape& shape, const DoneFn& done) {
    Completion completion;
    completion.seq = seq;
    completion.report.seq = seq;
    completion.report.shape = shape;
    completion.report.outcome = fault::Outcome::local;
    completion.error.kind = fault::ErrorKind::aborted;
    completion.error.text = why;
    if (done) done(completion);
  };
  for (auto& [seq, local] : std::exchange(locals_, {})) end(seq, local.shape, local.done);
  for (auto& [seq, entry] : std::exchange(queue_, {})) end(seq, entry.shape, entry.done);
  for (auto& [id, message] : std::exchange(messages_, {})) end(id, message.shape, message.done);
  answerBoundary({Boundary::Kind::ended, {}, {}});
}

void GroupRuntime::ban(Rank rank, std::optional<Duration> term, const std::string& why) {
  machine_.ban(host_.now(), rank, term, why);
  drain();
}

void GroupRuntime::unban(Rank rank) {
  machine_.unban(host_.now(), rank);
  drain();
}

void GroupRuntime::joined(Rank rank, Incarnation incarnation) {
  joined_.insert(rank);
  machine_.peerUp(host_.now(), rank, incarnation);
  settleReady();
  drain();
  host_.hasWork(peers_[rank.value]);
}

void GroupRuntime::gone(Rank rank, fault::Reason reason, const std::string& evidence) {
  outboxes_[rank.value].clear();
  machine_.peerGone(host_.now(), rank, reason, evidence);
  p2p_.peerGone(rank, reason);
  if (reason == fault::Reason::unreachable && !joined_.contains(rank)) {
    std::lock_guard lock(shared_->mutex);
    shared_->refused[rank] = evidence;
  }
  changeView([&](std::uint64_t reached) {
    using Gone = fault::ViewChange::Gone;
    const bool dead = reason == fault::Reason::dead;
    const auto how = dead ? Gone::dead : reason == fault::Reason::left ? Gone::left : Gone::away;
    views_.gone(host_.now(), rank, how, reached);
  });
  settleReady();
  drain();
  drainMessages();
}

void GroupRuntime::settleReady() {
  std::lock_guard lock(shared_->mutex);
  for (std::uint32_t r = 0; r < config_.size; ++r) {
    const auto link = machine_.members().at(Rank{r}).link;
    if (link != fault::Member::Link::joining) shared_->not_ready.erase(Rank{r});
  }
  shared_->changed.notify_all();
}

void GroupRuntime::control(Rank from, const ControlBody& body) {
  const auto message = [&](const auto& m) {
    p2p_.control(from, m);
    drainMessages();
  };
  if (const auto* offer = std::get_if<msg::Offer>(&body)) return message(*offer);
  if (const auto* accept = std::get_if<msg::Accept>(&body)) return message(*accept);
  if (const auto* withdraw = std::get_if<msg::Withdraw>(&body)) return message(*withdraw);
  if (const auto* ballot = std::get_if<msg::Ballot>(&body)) {
    return changeView(
        [&](std::uint64_t reached) { views_.control(host_.now(), from, *ballot, reached); });
  }
  if (const auto* leave = std::get_if<msg::Leave>(&body)) {
    // Who has gone on to the next view still has its vote: this rank missed the decision.
    changeView([&](std::uint64_t reached) {
      using Gone = fault::ViewChange::Gone;
      views_.gone(host_.now(), from, leave->for_next_view ? Gone::away : Gone::left, reached);
    });
  }
  machine_.control(host_.now(), from, body);
  drain();
}

void GroupRuntime::paused(Duration gap) {
  machine_.paused(host_.now(), gap);
  drain();
}

void GroupRuntime::answered(Rank rank) {
  machine_.heard(host_.now(), rank);
  drain();
}

void GroupRuntime::tick() {
  machine_.tick(host_.now());
  drain();
  p2p_.tick(host_.now());
  drainMessages();
  if (host_.now() < views_.nextDeadline()) return;
  changeView([&](std::uint64_t reached) { views_.tick(host_.now(), reached); });
}

void GroupRuntime::message(Rank from, const DataHeader& header,
                           std::span<const std::byte> payload) {
  if (header.type == MessageType::piece) return piece(from, header, payload);
  const Time now = host_.now();
  bool intact = false;
  switch (machine_.judge(now, from, header)) {
    case fault::Admission::drop: drain(); return;
    case fault::Admission::defer: keepEarly(from, header, payload); return;
    case fault::Admission::keep:
      if (buffers_.keptOf(from) >= mostKept()) {
        ++flooded_;
        // What is needed first stays; the other is as if it had been lost on the way.
        if (!buffers_.dropLater(from, header.seq)) return drain();
      }
      intact = keep(from, header, payload);
      break;
    case fault::Admission::apply: intact = apply(header, payload); break;
    case fault::Admission::place: intact = place(from, header, payload); break;
  }
  machine_.accepted(now, from, header, intact);
  drain();
}

// A peer's credits bound what it may have unanswered here, even if this rank stands in for all
// others; twice that, because it may give a chunk up before it is reduced.
std::uint32_t GroupRuntime::mostKept() const { return 2 * kCreditsPerShard * config_.size; }

bool GroupRuntime::keep(Rank from, const DataHeader& header, std::span<const std::byte> payload) {
  const bool check = config_.options.payload_crc;
  BlockRef block = payload.size() < kWorthHolding ? BlockRef() : host_.borrow(payload);
  if (block) {
    if (check && crc32c(payload) != header.payload_crc) return false;
  } else {
    block = host_.pool().allocate(static_cast<std::uint32_t>(payload.size()));
    if (!check) {
      std::memcpy(block.data(), payload.data(), payload.size());
    } else if (copyWithCrc32c(block.data(), payload) != header.payload_crc) {
      return false;
    }
  }
  buffers_.keep({header.seq, header.schema, header.chunk},
                {from, header.weight, std::move(block), (header.flags & kOfHost) != 0});
  return true;
}

bool GroupRuntime::apply(const DataHeader& header, std::span<const std::byte> payload) {
  // Checked before the first byte goes in: a damaged result must not cost the local gradient.
  if (config_.options.payload_crc && crc32c(payload) != header.payload_crc) return false;
  const auto it = locals_.find(header.seq);
  if (it == locals_.end()) return false;
  const Local& local = it->second;
  // Now: the chunk still holds what this rank contributed.
  if (header.contributors.contains(config_.rank) && hasResidual(local, header.chunk)) {
    feedback_.counted(sourceOf(header.seq, local, header.chunk));
  }
  decodeChunk(local, header.chunk, payload.data());
  release(header.seq, header.chunk, it->second.layout.owner(header.chunk));
  return true;
}

bool GroupRuntime::place(Rank from, const DataHeader& header, std::span<const std::byte> payload) {
  const auto it = locals_.find(header.seq);
  if (it == locals_.end() || !it->second.strict) return false;
  const auto& piece = it->second.strict->phases[header.attempt].pieces[from.value];
  const std::uint64_t offset = std::uint64_t{header.chunk.value} * block_bytes_;
  if (offset >= piece.recv_bytes) return false;
  if (payload.size() != std::min<std::uint64_t>(block_bytes_, piece.recv_bytes - offset)) {
    return false;
  }
  if (config_.options.payload_crc && crc32c(payload) != header.payload_crc) return false;
  std::memcpy(piece.recv + offset, payload.data(), payload.size());
  return true;
}

std::byte* GroupRuntime::chunkData(const Local& local, ChunkIndex chunk) const {
  return local.data + local.layout.range(chunk).start * local.layout.elementSize();
}

bool GroupRuntime::flushed() const {
  for (std::uint32_t r = 0; r < config_.size; ++r) {
    if (Rank{r} == config_.rank || machine_.members().gone(Rank{r})) continue;
    if (!outboxes_[r].flushed()) return false;
  }
  return true;
}

std::vector<BlacklistInfo> GroupRuntime::blacklist() const {
  std::vector<BlacklistInfo> out;
  const Time now = host_.now();
  for (const auto& entry : machine_.members().blacklist().entries()) {
    BlacklistInfo info;
    info.entry = entry;
    info.since_seconds_ago = toSeconds(now - entry.since);
    if (entry.expires != kNever) info.expires_in_seconds = toSeconds(entry.expires - now);
    out.push_back(info);
  }
  return out;
}

StatsMap GroupRuntime::stats() const {
  const auto& c = machine_.counters();
  const auto number = [](std::uint64_t value) { return static_cast<double>(value); };
  StatsMap out{
      {"rounds.complete", number(c.rounds_complete)},
      {"rounds.degraded", number(c.rounds_degraded)},
      {"rounds.local", number(c.rounds_local)},
      {"rounds.failed", number(c.rounds_failed)},
      {"rejected.stale", number(c.dropped_stale)},
      {"rejected.duplicate", number(c.dropped_duplicate)},
      {"rejected.schema", number(c.dropped_schema)},
      {"rejected.blacklisted", number(c.dropped_blacklisted)},
      {"rejected.malformed", number(c.dropped_malformed)},
      {"rejected.corrupt", number(c.dropped_corrupt)},
      {"rejected.unexpected", number(c.dropped_unexpected)},
      {"late_contributions", number(c.late_contributions)},
      {"strikes", number(c.strikes)},
      {"bans", number(c.bans)},
      {"fallback_bytes", number(c.fallback_bytes)},
      {"fetches", number(c.fetches)},
      {"redone_chunks", number(c.redone_chunks)},
      {"nonfinite_dropped", number(nonfinite_dropped_)},
      {"residual_bytes", number(feedback_.bytes())},
      {"rejected.flood", number(flooded_)},
      {"views", number(machine_.view().value)},
      {"view_change_under_way", views_.engaged() ? 1.0 : 0.0},
      {"retained_bytes", number(machine_.keptBytes())},
      {"rounds_held", number(machine_.roundsHeld())},
      {"rounds_open", number(locals_.size())},
      {"messages_open", number(p2p_.open())},
      {"arrival_budget_seconds", toSeconds(machine_.policy().budget())},
  };
  if (damage_.on()) out["test.damaged_bytes"] = number(damage_.bytes());
  return out;
}

}  // namespace papilio::engine
