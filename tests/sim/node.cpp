// Life of a simulated process: its clock, its training loop, what arrives.
#include "sim/node.hpp"

#include <algorithm>

#include "core/control_message.hpp"
#include "core/crc32c.hpp"

namespace papilio::sim {

namespace {

const Bytes kPing{std::byte{1}};
const Bytes kPong{std::byte{2}};

fault::MachineConfig configFor(const Workload& work, Rank me, std::uint64_t seed) {
  fault::MachineConfig config;
  config.group = kGroup;
  config.me = me;
  config.size = work.size();
  config.options = work.ranks[me.value].options;
  config.seed = seed;
  config.hosts = work.hosts;
  return config;
}

std::string text(const DataHeader& header) {
  static constexpr const char* kNames[] = {"?", "CONTRIB", "RESULT", "BLOCK"};
  std::string out = kNames[static_cast<std::uint8_t>(header.type)];
  out +=
      " seq " + std::to_string(header.seq.value) + " chunk " + std::to_string(header.chunk.value);
  if (header.attempt != 0) out += " attempt " + std::to_string(header.attempt);
  if ((header.flags & kLateNotCounted) != 0) out += " late";
  header.blamed.forEach([&](Rank rank) { out += " blames " + std::to_string(rank.value); });
  header.mismatched.forEach([&](Rank rank) { out += " model of " + std::to_string(rank.value); });
  if ((header.flags & kFetched) != 0) out += " fetched";
  if ((header.flags & kRelayed) != 0) out += " relayed";
  if ((header.flags & kListens) != 0) out += " listens";
  if ((header.flags & kOfHost) != 0) {
    out += " for";
    header.contributors.forEach([&](Rank rank) { out += " " + std::to_string(rank.value); });
  }
  return out;
}

}  // namespace

Node::Node(Surroundings world, Rank me, std::uint64_t seed)
    : queue_(world.queue),
      network_(world.network),
      random_(world.random),
      work_(world.work),
      observer_(world.observer),
      hosts_(world.hosts),
      me_(me),
      plan_(world.work.ranks[me.value]),
      machine_(configFor(world.work, me, seed)),
      outboxes_(world.work.size()) {
  network_.attach(me, this);
}

void Node::say(const std::string& line) {
  if (observer_.tracing()) observer_.trace(me_, line);
}

Time Node::now() const {
  if (state_ == State::paused) return active_;
  const Duration passed = queue_.now() - since_;
  return active_ +
         (plan_.clock_rate == 1 ? passed : fromSeconds(toSeconds(passed) * plan_.clock_rate));
}

void Node::run(const std::function<void()>& action) {
  if (state_ == State::paused) {
    inbox_.push_back(action);
    return;
  }
  if (state_ != State::running) return;
  action();
  drain();
  for (std::uint32_t r = 0; r < work_.size(); ++r) pump(Rank{r});
  plan();
  arm();
}

void Node::arm() {
  const Time deadline = machine_.nextDeadline();
  if (deadline == kNever || state_ != State::running) return;
  Duration left = deadline - now();
  // A nanosecond more, or rounding would ring it a little early for ever.
  if (plan_.clock_rate != 1) left = fromSeconds(toSeconds(left) / plan_.clock_rate) + 1ns;
  const Instant due = queue_.now() + std::max(left, Duration::zero());
  if (armed_ && *armed_ <= due) return;
  const Instant when =
      work_.timer_slack > Duration::zero() ? due + random_.upTo(work_.timer_slack) : due;
  armed_ = when;
  queue_.at(when, [this, when] { fire(when); });
}

void Node::fire(Instant when) {
  if (armed_ != when) return;  // an earlier timer took over
  armed_.reset();
  if (state_ != State::running) return;
  if (machine_.nextDeadline() > now()) return arm();
  run([this] { machine_.tick(now()); });
}

void Node::start() {
  since_ = queue_.now();
  run([this] {
    for (std::uint32_t r = 0; r < work_.size(); ++r) {
      if (Rank{r} != me_) machine_.peerUp(now(), Rank{r}, Incarnation{r + 1});
    }
  });
}

// The training loop: the next collective starts when the last one left room and after computing.
void Node::plan() {
  if (planned_ || stopped_ || next_ > work_.ops.size() || next_ > finished_ + work_.depth) return;
  planned_ = true;
  const auto lag = plan_.lag.find(Seq{next_});
  Duration wait = plan_.compute + (lag == plan_.lag.end() ? Duration{} : lag->second);
  const auto earliest = work_.not_before.find(Seq{next_});
  if (earliest != work_.not_before.end()) wait = std::max(wait, earliest->second - queue_.now());
  queue_.after(wait, [this] {
    run([this] {
      planned_ = false;
      if (!stopped_) enter();
    });
  });
}

void Node::enter() {
  const Seq seq{next_++};
  const RoundShape shape = work_.shapeFor(me_, seq);
  Local& local = locals_[seq];
  local.shape = shape;
  local.schema = schemaOf(shape, kGroup, machine_.view());
  local.layout = Layout(shape.numel, elementSize(shape.dtype), work_.size(), seq);
  local.tensor = inputBytes(work_, me_, seq, shape);
  local.entered = now();
  local.entered_at = queue_.now();
  say("enters seq " + std::to_string(seq.value) + " " + describe(shape));
  observer_.entered(me_, seq, shape);
  local.waits = hosts_.combines(me_, shape);
  if (!local.waits) return begin();
  if (begun_ + 1 == seq.value) machine_.combining(seq);
  hosts_.join(me_, seq, shape, [this, seq](fault::HostShare share, Bytes data) {
    run([this, seq, share = std::move(share), data = std::move(data)] {
      const auto it = locals_.find(seq);
      if (it == locals_.end()) return;
      it->second.waits = false;
      it->second.host = share;
      if (share.combined()) it->second.tensor = data;
      begin();
    });
  });
}

// In the order of the calls, whatever the host's part took.
void Node::begin() {
  for (auto it = locals_.find(Seq{begun_ + 1}); it != locals_.end() && !it->second.waits;
       it = locals_.find(Seq{begun_ + 1})) {
    ++begun_;
    begin(it->first, it->second);
    drain();  // it may be over already
    const auto early = early_.find(Seq{begun_});
    if (early == early_.end()) continue;
    const auto messages = std::move(early->second);
    early_.erase(early);
    for (const auto& message : messages) {
      take(message);
      drain();
    }
  }
  const auto next = locals_.find(Seq{begun_ + 1});
  const bool waits = next != locals_.end() && next->second.waits;
  machine_.combining(waits ? std::optional(next->first) : std::nullopt);
}

void Node::begin(Seq seq, Local& local) {
  const RoundShape shape = local.shape;
  if (!inPhases(shape)) {
    return machine_.enterAllreduce(now(), seq, shape, work_.timeout, local.host);
  }
  local.strict.emplace();
  const ContributorSet members = machine_.members().present();
  prepare(*local.strict, work_.size(), members, me_, shape, local.tensor);
  machine_.enterStrict(now(), seq, specOf(*local.strict, shape, work_.size()), work_.timeout);
}

void Node::crash() {
  say("is killed");
  state_ = State::crashed;
  inbox_.clear();
}

void Node::pause() {
  if (state_ != State::running) return;
  say("is stopped");
  active_ = now();
  since_ = queue_.now();
  state_ = State::paused;
}

void Node::resume() {
  if (state_ != State::paused) return;
  const Duration gap = queue_.now() - since_;
  say("goes on");
  since_ = queue_.now();
  state_ = State::running;
  auto waiting = std::move(inbox_);
  inbox_.clear();
  const bool knows_first = random_.chance(0.5);
  if (knows_first) run([&] { machine_.paused(now(), gap); });
  for (const auto& action : waiting) run(action);
  if (!knows_first) run([&] { machine_.paused(now(), gap); });
}

// Others may still wait for results that this rank reduced: they go out first.
void Node::leave() {
  if (!alive() || leaving_) return;
  stopped_ = leaving_ = true;
  run([this] {
    machine_.cancelAll(now(), fault::ErrorKind::aborted, "the group was destroyed");
    drain();
    locals_.clear();  // of rounds that have not begun
    finishLeave(queue_.now() + kFlushLimit);
  });
}

void Node::finishLeave(Instant limit) {
  std::size_t on_wire = 0;
  for (std::uint32_t r = 0; r < work_.size(); ++r) {
    if (lost_.count(Rank{r}) == 0) on_wire += outboxes_[r].on_wire;
  }
  if (queuedMessages() + on_wire > 0 && queue_.now() < limit) {
    queue_.after(1ms, [this, limit] { run([this, limit] { finishLeave(limit); }); });
    return;
  }
  for (std::uint32_t r = 0; r < work_.size(); ++r) {
    if (Rank{r} != me_) perform(fault::effect::SendControl{Rank{r}, msg::Leave{}});
  }
  say("leaves");
  state_ = State::left;
}

void Node::ban(Rank rank, std::optional<Duration> term) {
  run([=, this] { machine_.ban(now(), rank, term, "asked for"); });
}
void Node::unban(Rank rank) {
  run([=, this] { machine_.unban(now(), rank); });
}
void Node::abort(const std::string& why) {
  run([=, this] { machine_.cancelAll(now(), fault::ErrorKind::aborted, why); });
}

void Node::gone(Rank rank, fault::Reason reason, const std::string& evidence) {
  run([=, this] {
    lost_.insert(rank);
    outboxes_[rank.value].clear();
    machine_.peerGone(now(), rank, reason, evidence);
  });
}

void Node::connectionLost(Rank peer) {
  gone(peer, fault::Reason::unreachable, "nothing was acknowledged for 15 s");
}

void Node::arrives(DataMessage message) {
  run([this, message = std::move(message)] { take(message); });
}

void Node::arrivesControl(Rank from, SharedBytes frame) {
  run([this, from, frame = std::move(frame)] { takeControl(from, *frame); });
}

void Node::takeControl(Rank from, const Bytes& frame) {
  if (lost_.count(from) != 0 || takePing(from, frame)) return;
  const auto message = parseControl(frame);
  if (!message || message->group != kGroup) {
    ++bad_headers_;
    return;
  }
  say("<- " + std::to_string(from.value) + " " + describe(message->body));
  if (std::holds_alternative<msg::Leave>(message->body)) {
    // Data that it sent before may still be on its way on the other lane.
    queue_.after(kLinger, [this, from, body = message->body] {
      run([this, from, body] { machine_.control(now(), from, body); });
    });
    return;
  }
  machine_.control(now(), from, message->body);
}

// What the engine's control plane does below the protocol.
bool Node::takePing(Rank from, const Bytes& frame) {
  if (frame == kPing) {
    network_.sendControl(me_, from, kPong);
  } else if (frame == kPong) {
    machine_.heard(now(), from);
  }
  return frame == kPing || frame == kPong;
}

void Node::take(const DataMessage& message) {
  if (message.taken) message.taken();
  DataHeader header;
  const bool good = parse(*message.header, header) == ParseError::none &&
                    header.src == message.from && header.group == kGroup &&
                    header.incarnation == Incarnation{header.src.value + 1} &&
                    header.payload_bytes == message.payload->size();
  if (!good) {
    ++bad_headers_;
    return;
  }
  bool intact = false;
  const fault::Admission admission = machine_.judge(now(), header.src, header);
  if (observer_.tracing())
    say("<= " + std::to_string(header.src.value) + " " + text(header) +
        (admission == fault::Admission::drop ? " (dropped)" : ""));
  switch (admission) {
    case fault::Admission::drop: return;
    case fault::Admission::defer:
      return early_[header.seq].push_back({message.from, message.header, message.payload, {}});
    case fault::Admission::keep: intact = keep(header.src, header, message.payload); break;
    case fault::Admission::apply: intact = apply(header, *message.payload); break;
    case fault::Admission::place: intact = place(header.src, header, *message.payload); break;
  }
  if (!intact) say("sees damage in a message of " + std::to_string(header.src.value));
  machine_.accepted(now(), header.src, header, intact);
}

void Node::perform(const fault::effect::Ping& e) {
  if (lost_.count(e.to) == 0) network_.sendControl(me_, e.to, kPing);
}

bool Node::keep(Rank from, const DataHeader& header, const SharedBytes& payload) {
  if (crc32c(*payload) != header.payload_crc) return false;
  contributions_[{header.seq, header.schema, header.chunk}].push_back(
      {from, header.weight, (header.flags & kOfHost) != 0, payload});
  most_contribution_bytes_ = std::max(most_contribution_bytes_, contributionBytes());
  return true;
}

bool Node::apply(const DataHeader& header, const Bytes& payload) {
  const auto it = locals_.find(header.seq);
  if (crc32c(payload) != header.payload_crc || it == locals_.end()) return false;
  std::copy(payload.begin(), payload.end(), chunkAt(it->second, header.chunk));
  settled(header.seq, header.chunk);
  return true;
}

bool Node::place(Rank from, const DataHeader& header, const Bytes& payload) {
  const auto it = locals_.find(header.seq);
  if (crc32c(payload) != header.payload_crc || it == locals_.end()) return false;
  Bytes& to = it->second.strict->receivedOf(header.attempt, from);
  const std::uint64_t start = std::uint64_t{header.chunk.value} * maxChunkBytes(work_.size());
  if (start + payload.size() > to.size()) return false;
  std::copy(payload.begin(), payload.end(), to.begin() + static_cast<std::ptrdiff_t>(start));
  return true;
}

std::byte* Node::chunkAt(Local& local, ChunkIndex chunk) {
  return local.tensor.data() + local.layout.range(chunk).start * local.layout.elementSize();
}

std::uint64_t Node::contributionBytes() const {
  std::uint64_t total = 0;
  for (const auto& [key, kept] : contributions_) {
    for (const auto& one : kept) total += one.bytes->size();
  }
  return total;
}

std::uint64_t Node::resultBytes() const {
  std::uint64_t total = 0;
  for (const auto& [key, kept] : results_) total += kept.bytes->size();
  return total;
}

std::size_t Node::queuedMessages() const {
  std::size_t total = 0;
  for (const auto& outbox : outboxes_) total += outbox.queued();
  return total;
}

std::size_t Node::unanswered() const {
  std::size_t total = 0;
  for (const auto& outbox : outboxes_) total += outbox.unanswered();
  return total;
}

}  // namespace papilio::sim
