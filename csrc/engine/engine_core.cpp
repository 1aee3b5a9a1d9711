#include "engine/engine_core.hpp"

#include <pthread.h>

#include <random>
#include <stdexcept>

namespace papilio::engine {

namespace {
std::uint64_t randomBits() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}
}  // namespace

std::shared_ptr<Engine> Engine::start(EngineConfig config) {
  auto engine = std::make_shared<EngineCore>(std::move(config));
  engine->launch();
  return engine;
}

EngineCore::EngineCore(EngineConfig config)
    : config_(std::move(config)),
      self_(randomBits()),
      incarnation_(static_cast<std::uint32_t>(randomBits() | 1)) {}

EngineCore::~EngineCore() { shutdown(); }

void EngineCore::launch() {
  std::promise<void> started;
  auto ready = started.get_future();
  thread_ = std::thread([this, &started] { main(started); });
  try {
    ready.get();
  } catch (...) {
    thread_.join();
    throw;
  }
}

void EngineCore::openLanes() {
  transport_ = config_.lanes.transport(*this, self_);
  PeerHello hello;
  hello.process = self_;
  hello.incarnation = incarnation_;
  hello.versions = config_.versions;
  hello.data_address = transport_->localAddress();
  control_ = config_.lanes.control(*this, std::move(hello));
  record_ = control_->localRecord();
  control_->watch(transport_->eventFd());
}

void EngineCore::main(std::promise<void>& started) {
  pthread_setname_np(pthread_self(), "papilio-engine");
  try {
    openLanes();
  } catch (...) {
    control_.reset();
    transport_.reset();
    started.set_exception(std::current_exception());
    return;
  }
  {
    std::lock_guard lock(command_mutex_);
    accepting_ = true;
  }
  started.set_value();
  while (!stopping_) step();
  teardown();
}

void EngineCore::step() {
  clock_.advance(Duration::zero());
  bool busy = runCommands();
  for (int round = 0; round < 8 && transport_->progress() > 0; ++round) busy = true;
  control_->wait(Duration::zero());
  tickDue();
  pumpDirty();
  if (!busy && dirty_.empty()) sleep();
  if (clock_.gap() > Duration::zero()) {
    count("pauses");
    for (auto& [id, entry] : groups_) entry.runtime->paused(clock_.gap());
  }
}

bool EngineCore::post(std::function<void()> command) {
  {
    std::lock_guard lock(command_mutex_);
    if (!accepting_) return false;
    commands_.push_back(std::move(command));
  }
  if (sleeping_.load()) control_->wake();
  return true;
}

bool EngineCore::runCommands() {
  std::vector<std::function<void()>> commands;
  {
    std::lock_guard lock(command_mutex_);
    commands.swap(commands_);
  }
  for (auto& command : commands) command();
  return !commands.empty();
}

void EngineCore::sleep() {
  const Time deadline = std::min(nextDeadline(), next_ping_);
  Duration planned = std::min<Duration>(deadline - clock_.now(), kPingEvery);
  if (planned <= Duration::zero()) return;
  sleeping_.store(true);
  bool nothing_to_do;
  {
    std::lock_guard lock(command_mutex_);
    nothing_to_do = commands_.empty();
  }
  if (nothing_to_do && transport_->arm()) {
    control_->wait(planned);
    clock_.advance(planned);
  }
  sleeping_.store(false);
}

Time EngineCore::nextDeadline() const {
  Time next = timers_.empty() ? kNever : timers_.begin()->first;
  for (const auto& [id, entry] : groups_) next = std::min(next, entry.runtime->nextDeadline());
  return next;
}

void EngineCore::after(Duration delay, std::function<void()> action) {
  timers_.emplace(clock_.now() + delay, std::move(action));
}

void EngineCore::tickDue() {
  const Time now = clock_.now();
  while (!timers_.empty() && timers_.begin()->first <= now) {
    auto action = std::move(timers_.begin()->second);
    timers_.erase(timers_.begin());
    action();
  }
  for (auto& [id, entry] : groups_) {
    if (entry.runtime->nextDeadline() <= now) entry.runtime->tick();
  }
  if (now < next_ping_) return;
  next_ping_ = now + kPingEvery;
  for (const auto& peer : peers_) {
    if (peer.state == PeerLink::State::up) control_->ping(peer.id);
  }
}

void EngineCore::shutdown() {
  if (!thread_.joinable()) return;
  post([this] { stopping_ = true; });
  thread_.join();
}

void EngineCore::teardown() {
  {
    std::lock_guard lock(command_mutex_);
    accepting_ = false;
  }
  runCommands();
  for (auto& [id, entry] : groups_) {
    entry.runtime->abort("the engine was shut down");
    std::lock_guard lock(entry.shared->mutex);
    entry.shared->aborted = entry.shared->left = true;
    entry.shared->changed.notify_all();
  }
  control_->shutdown(300);
  transport_->shutdown(1000);
  for (auto& slot : slots_) slot.message.payload = {};
  groups_.clear();
  peers_.clear();
  control_.reset();
  transport_.reset();
}

StatsMap EngineCore::stats() const {
  auto* self = const_cast<EngineCore*>(this);
  return self->ask<StatsMap>([self] { return self->collectStats(); }, {});
}

StatsMap EngineCore::collectStats() const {
  StatsMap out = counters_;
  const auto control = control_->counters();
  out["rejected.garbage"] = static_cast<double>(control.rejected_garbage);
  out["rejected.secret"] = static_cast<double>(control.rejected_secret);
  out["rejected.handshake_timeout"] = static_cast<double>(control.rejected_timeout);
  out["rejected.duplicate_connection"] = static_cast<double>(control.rejected_duplicate);
  out["control.frames_dropped"] = static_cast<double>(control.frames_dropped);
  out["staging.bytes_in_use"] = static_cast<double>(pool_.bytesInUse());
  out["staging.bytes_held"] = static_cast<double>(pool_.bytesHeld());
  double in_flight = 0;
  for (const auto& peer : peers_) in_flight += static_cast<double>(peer.in_flight_bytes);
  out["queue.bytes_in_flight"] = in_flight;
  out["groups"] = static_cast<double>(groups_.size());
  return out;
}

void EngineCore::log(LogLevel level, const std::string& line) {
  if (config_.log) config_.log(level, line);
}

}  // namespace papilio::engine
