#include "engine/engine_core.hpp"

#include <pthread.h>
#include <unistd.h>

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
      incarnation_(static_cast<std::uint32_t>(randomBits() | 1)),
      owner_pid_(getpid()) {}

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
  pool_.useArena(transport_->arena());
  PeerHello hello;
  hello.process = self_;
  hello.incarnation = incarnation_;
  hello.versions = config_.versions;
  hello.data_address = transport_->localAddress();
  control_ = config_.lanes.control(*this, std::move(hello), wheel_);
  record_ = control_->localRecord();
  control_->watch(transport_->eventFd());
}

void EngineCore::main(std::promise<void>& started) {
  pthread_setname_np(pthread_self(), "papilio-engine");
  const std::lock_guard held(wheel_);
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
  guarded([this] { attend(); });
  teardown();
}

void EngineCore::attend() {
  while (!stopping_) {
    if (failure_) std::rethrow_exception(failure_);
    const bool busy = step();
    // What it waits for may have been said by a control connection or a timer.
    if (driver_ == Driver::asleep) nudge_.send();
    if (!busy || wheel_.wanted()) {
      sleep();
    } else if (++steps_unheard_ >= kHearEvery) {
      hear(Duration::zero());  // a system call: not in each of the few steps of a small collective
    }
  }
}

template <class Action>
void EngineCore::guarded(Action action) noexcept {
  try {
    action();
  } catch (const std::exception& error) {
    log(LogLevel::error, std::string("papilio: the progress thread failed: ") + error.what() +
                             "; all groups of this process end with an error");
  } catch (...) {
    log(LogLevel::error, "papilio: the progress thread failed; all groups of this process end");
  }
}

// False: there was nothing to do.
bool EngineCore::step() {
  advanceClock();
  bool busy = runCommands();
  for (int round = 0; round < 8 && transport_->progress() > 0; ++round) busy = true;
  if (busy) refusals_ = idle_wakeups_ = 0;
  // Only events move deadlines: who looks again and again for one need not ask everybody.
  if (busy || clock_.now() >= due_) {
    tickDue();
    const auto late = pool_.bringHome(clock_.now() - kBorrowLimit);
    if (late != 0) count("payloads_held_too_long", late);
    due_ = std::min(nextDeadline(), next_ping_);
  }
  pumpDirty();
  return busy || !dirty_.empty();
}

// Waits for the control connections, and performs what has come.
void EngineCore::hear(Duration limit) {
  steps_unheard_ = 0;
  control_->wait(limit);
  due_ = {};
}

// A gap is told at once, before any deadline is looked at.
void EngineCore::advanceClock(ActiveTime::RealTime due) {
  clock_.advance(due);
  if (clock_.gap() == Duration::zero()) return;
  count("pauses");
  for (auto& [id, entry] : groups_) entry.runtime->paused(clock_.gap());
}

bool EngineCore::post(std::function<void()> command, bool urgent) {
  if (getpid() != owner_pid_) return false;
  std::lock_guard lock(command_mutex_);
  if (!accepting_) return false;
  commands_.push_back(std::move(command));
  // Under the lock: teardown() takes it before it destroys the control plane.
  if (urgent && awake_.load() == 0) control_->wake();
  return true;
}

void EngineCore::wakeProgress() {
  std::lock_guard lock(command_mutex_);
  if (accepting_) control_->wake();
}

bool EngineCore::noCommands() {
  std::lock_guard lock(command_mutex_);
  return commands_.empty();
}

bool EngineCore::runCommands() {
  {
    std::lock_guard lock(command_mutex_);
    for (auto& command : commands_) running_.push_back(std::move(command));
    commands_.clear();
  }
  const bool any = !running_.empty();
  while (!running_.empty()) {  // one that throws leaves the rest for teardown()
    const auto command = std::move(running_.front());
    running_.pop_front();
    command();
  }
  return any;
}

void EngineCore::sleep() {
  if (leased_ && (clock_.now() >= lease_until_ || !quiet())) leased_ = false;
  Time until = std::min({nextDeadline(), next_ping_, clock_.now() + kPingEvery});
  if (leased_) until = std::min(until, lease_until_);
  const Duration planned = until - clock_.now();
  if (planned <= Duration::zero()) return wheel_.giveWay();
  --awake_;
  if (noCommands()) doze(planned);
  ++awake_;
}

void EngineCore::doze(Duration planned) {
  const Time before = clock_.now();
  // Whoever wants the wheel, or has a lease, looks after the data lanes.
  const bool unneeded = wheel_.wanted() || leased_;
  const bool armed =
      unneeded || (driver_ == Driver::asleep ? transport_->armWaiter() : transport_->arm());
  // Usually something just arrived. A lane that refuses again and again (it is closing endpoints)
  // must not cost a whole core.
  if (!armed && ++refusals_ < kRefusalLimit) return;
  // The descriptor says ready, the lane has nothing: seen with UCX after a peer's death.
  const bool cries_wolf = armed && idle_wakeups_ >= kSpinLimit;
  if (cries_wolf) {
    count("spins");
    idle_wakeups_ = kSpinLimit - 10;
  } else if (armed) {
    refusals_ = 0;
  }
  const bool naps = !armed || cries_wolf;
  if (naps) planned = std::min(planned, kNap);
  progress_until_ = before + planned;
  progress_due_ = clock_.dueIn(planned);
  if (naps) {
    control_->nap(planned);
    due_ = {};
  } else {
    hear(planned);
  }
  advanceClock(driver_ == Driver::asleep ? std::min(progress_due_, driver_due_) : progress_due_);
  if (clock_.now() - before >= kNap) {
    if (idle_wakeups_ < kSpinLimit - 10) idle_wakeups_ = 0;
  } else {
    ++idle_wakeups_;
  }
}

Time EngineCore::nextDeadline() const {
  Time next = timers_.empty() ? kNever : timers_.begin()->first;
  for (const auto& [id, entry] : groups_) next = std::min(next, entry.runtime->nextDeadline());
  const Time oldest = pool_.oldestBorrowed();
  return oldest == kNever ? next : std::min(next, oldest + kBorrowLimit);
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
  if (getpid() != owner_pid_) {
    // A child of fork() has no such thread, and must not touch descriptors that it shares with its
    // parent: what they belong to is left alone.
    static_cast<void>(new std::thread(std::move(thread_)));
    static_cast<void>(control_.release());
    static_cast<void>(transport_.release());
    return;
  }
  std::lock_guard lock(join_mutex_);
  if (!thread_.joinable()) return;
  post([this] { stopping_ = true; });
  thread_.join();
}

void EngineCore::teardown() {
  {
    std::lock_guard lock(command_mutex_);
    accepting_ = false;
  }
  do {
    guarded([this] { runCommands(); });
  } while (!running_.empty());
  for (auto& [id, entry] : groups_) {
    guarded([&group = *entry.runtime] { group.abort("the engine was shut down"); });
    guarded([&group = *entry.runtime] { group.abandon("the engine was shut down"); });
    std::lock_guard lock(entry.shared->mutex);
    entry.shared->aborted = entry.shared->left = true;
    entry.shared->changed.notify_all();
  }
  guarded([this] { control_->shutdown(300); });
  guarded([this] { transport_->shutdown(1000); });
  for (auto& slot : slots_) slot.message.payload = {};
  groups_.clear();
  peers_.clear();
  pool_.releaseIdle();
  control_.reset();
  transport_.reset();
  stopped_ = true;
  nudge_.send();
}

StatsMap EngineCore::stats() const {
  auto* self = const_cast<EngineCore*>(this);
  return self->ask<StatsMap>([self] { return self->collectStats(); }, {});
}

StatsMap EngineCore::collectStats() const {
  StatsMap out = counters_;
  transport_->addStats(out);
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
