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
  const auto end = ActiveTime::RealClock::now() + limit;
  ++awake_;
  // Whoever does not let go of the wheel (a bug) keeps the engine, but not the caller.
  bool held = wheel_.lockUntil(end);
  try {
    if (held) held = driveUntil(done, end);
  } catch (...) {
    failure_ = std::current_exception();
  }
  --awake_;
  driver_ = Driver::none;
  if (held && !stopped_) handBack();
  if (held) wheel_.unlock();
  if (!held) wakeProgress();
  has_driver_.store(false);
}

// Processes that had ended before the call are known when it begins, as they are when the progress
// thread begins with it: a strict collective would fail because of them instead of going on over
// the rest. The progress thread is awake by now, and says so. False: the wheel is lost.
bool EngineCore::hearOfEnds(ActiveTime::RealTime end) {
  for (int i = 0; i < kEndsLimit && !stopped_ && control_->endsUnheard(); ++i) {
    wheel_.unlock();
    sched_yield();
    if (!wheel_.lockUntil(end)) return false;
  }
  return true;
}

// False: it has lost the wheel.
bool EngineCore::driveUntil(const std::function<bool()>& done, ActiveTime::RealTime end) {
  driver_ = Driver::awake;
  if (!stopped_) advanceClock(progress_due_);  // it may have slept since
  if (!hearOfEnds(end)) return false;
  constexpr ActiveTime::RealTime kBusy{};
  auto idle_since = kBusy;
  while (!stopping_ && !stopped_ && !failure_ && !done()) {
    const bool busy = step();
    const auto now = ActiveTime::RealClock::now();
    if (now >= end) return true;
    if (busy) {
      idle_since = kBusy;
      if (!wheel_.giveWayUntil(end)) return false;
      continue;
    }
    if (done()) return true;
    if (idle_since == kBusy) idle_since = now;
    if (now - idle_since < kSpin) {
      wheel_.unlock();
      sched_yield();  // to the ranks that are to send, where there are more of them than cores
      if (!wheel_.lockUntil(end)) return false;
    } else if (!dozeAsDriver(end)) {
      return false;
    }
  }
  return true;
}

// False: as above.
bool EngineCore::dozeAsDriver(ActiveTime::RealTime end) {
  Duration planned =
      std::min<Duration>(nextDeadline() - clock_.now(), end - ActiveTime::RealClock::now());
  if (planned <= Duration::zero()) return true;
  if (!transport_->armWaiter()) {
    if (++refusals_ < kRefusalLimit) return true;
    planned = std::min(planned, kNap);
  } else {
    refusals_ = 0;
  }
  --awake_;
  bool held = true;
  if (noCommands()) {
    driver_ = Driver::asleep;
    driver_due_ = clock_.dueIn(planned);
    const int fd = transport_->waiterFd();
    wheel_.unlock();
    nudge_.await(fd, planned);
    held = wheel_.lockUntil(std::max(end, driver_due_ + kNap));
    driver_ = Driver::awake;
    if (held && !stopped_) advanceClock(std::min(driver_due_, progress_due_));
  }
  ++awake_;
  return held;
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
