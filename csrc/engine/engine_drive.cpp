// A thread that waits for a collective drives the engine meanwhile (docs/adr/0016): what it submits
// and what it waits for needs no change of threads.
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "engine/engine_core.hpp"

namespace papilio::engine {

void EngineCore::drive(const std::function<bool()>& done, Duration limit) {
  if (getpid() != owner_pid_ || wheel_.held()) return;
  if (has_driver_.exchange(true)) return wakeProgress();  // for what the caller has just posted
  {
    const std::lock_guard held(wheel_);
    ++awake_;
    try {
      driveUntil(done, limit);
    } catch (...) {
      failure_ = std::current_exception();
    }
    --awake_;
    driver_ = Driver::none;
    if (!stopped_) handBack();
  }
  has_driver_.store(false);
}

void EngineCore::driveUntil(const std::function<bool()>& done, Duration limit) {
  driver_ = Driver::awake;
  if (!stopped_) advanceClock(progress_due_);  // it may have slept since
  const auto end = ActiveTime::RealClock::now() + limit;
  constexpr ActiveTime::RealTime kBusy{};
  auto idle_since = kBusy;
  while (!stopping_ && !stopped_ && !failure_ && !done()) {
    if (step()) {
      idle_since = kBusy;
      wheel_.giveWay();
      continue;
    }
    const auto now = ActiveTime::RealClock::now();
    if (now >= end || done()) return;
    if (idle_since == kBusy) idle_since = now;
    if (now - idle_since < kSpin) {
      wheel_.unlock();
      sched_yield();  // to the ranks that are to send, where there are more of them than cores
      wheel_.lock();
    } else {
      dozeAsDriver(end - now);
    }
  }
}

void EngineCore::dozeAsDriver(Duration limit) {
  Duration planned = std::min<Duration>(nextDeadline() - clock_.now(), limit);
  if (planned <= Duration::zero()) return;
  if (!transport_->armWaiter()) {
    if (++refusals_ < kRefusalLimit) return;
    planned = std::min(planned, kNap);
  } else {
    refusals_ = 0;
  }
  --awake_;
  if (noCommands()) {
    driver_ = Driver::asleep;
    driver_due_ = clock_.dueIn(planned);
    const int fd = transport_->waiterFd();
    wheel_.unlock();
    nudge_.await(fd, planned);
    wheel_.lock();
    driver_ = Driver::awake;
    if (!stopped_) advanceClock(std::min(driver_due_, progress_due_));
  }
  ++awake_;
}

// Nothing is open here that others or the local rank wait for.
bool EngineCore::quiet() const {
  return dirty_.empty() && starved_.empty() &&
         std::all_of(groups_.begin(), groups_.end(),
                     [](const auto& entry) { return entry.second.runtime->quiet(); });
}

// The progress thread sleeps, and goes on to, unless there is work, or it would wake too late.
void EngineCore::handBack() {
  const Time now = clock_.now();
  const bool comes_back = leased_ || now - driven_ < kLease;
  driven_ = now;
  bool attended = noCommands() && !failure_;
  if (attended && comes_back && quiet()) {
    lease_until_ = now + kLease;
    attended = std::exchange(leased_, true);  // it has to plan for the end of a lease
  } else {
    leased_ = false;
    attended = attended && dirty_.empty() && transport_->arm();
  }
  if (!attended || nextDeadline() < progress_until_) wakeProgress();
}

}  // namespace papilio::engine
