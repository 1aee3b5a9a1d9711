#include "process_group/backend.hpp"

#include "process_group/abort_hooks_run.hpp"
#include "process_group/convert.hpp"
#include "process_group/interpreter.hpp"
#include "process_group/rendezvous.hpp"

#include <unistd.h>

#include <algorithm>
#include <set>

namespace papilio::pg {

namespace {

// Longer timeouts mean "never"; the sum with a point in time must not overflow.
constexpr std::chrono::milliseconds kLongest = std::chrono::hours(24 * 365);
constexpr std::chrono::milliseconds kShortest{1};

std::chrono::milliseconds sane(std::chrono::milliseconds timeout) {
  return std::clamp(timeout, kShortest, kLongest);
}

// Groups that live, for the interpreter's exit: nothing in Python keeps the backends' objects.
std::mutex living_mutex;
std::set<BackendPapilio*> living;

// What all ranks have to agree on.
std::string hierarchyFor(const Settings& settings) {
  if (settings.host_backend.empty()) return settings.hierarchy;
  return settings.hierarchy + "' and host_backend='" + settings.host_backend;
}

}  // namespace

ModeOverride& modeOverride() {
  thread_local ModeOverride value = ModeOverride::none;
  return value;
}

BackendPapilio::BackendPapilio(std::shared_ptr<Process> process, int rank, int size,
                               std::string name, Settings settings, Millis timeout,
                               Listeners listeners)
    : Backend(rank, size),
      name_(std::move(name)),
      settings_(std::move(settings)),
      listeners_(std::move(listeners)),
      timeout_(sane(timeout)),
      pid_(getpid()),
      identity_(Process::nextGroupNumber()),
      process_(std::move(process)),
      no_group_("it has no members yet; call reconfigure() first") {
  std::lock_guard lock(living_mutex);
  living.insert(this);
}

c10::intrusive_ptr<BackendPapilio> BackendPapilio::atStore(c10d::Store& store, int rank, int size,
                                                           std::string name, Settings settings,
                                                           Millis timeout, Listeners listeners,
                                                           bool deferred, bool rejoin) {
  auto process = Process::acquire(settings.transport, [&] {
    return ProcessSettings{settings.interface, jobSecret(store), settings.log_level,
                           settings.transport};
  });
  auto backend =
      c10::make_intrusive<BackendPapilio>(std::move(process), rank, size, std::move(name),
                                          std::move(settings), timeout, std::move(listeners));
  if (deferred) return backend;
  auto met =
      meet(store, rank, size, backend->process_->engine().localRecord(),
           hierarchyFor(backend->settings_), backend->identity_, backend->timeout_.load(), rejoin);
  if (met.view == ViewNumber{0}) {
    backend->beAlone(std::move(met));
  } else {
    backend->enter(std::move(met));
  }
  return backend;
}

BackendPapilio::~BackendPapilio() {
  const auto unlocked = releaseInterpreter();
  {
    std::lock_guard lock(living_mutex);
    living.erase(this);
  }
  shutdown();
}

c10::intrusive_ptr<c10d::Backend::Options> BackendPapilio::getBackendOptions() {
  return c10::make_intrusive<OptionsPapilio>(settings_, timeout_.load());
}

void BackendPapilio::setTimeout(Millis timeout) { timeout_ = sane(timeout); }

namespace {

// What abort() waits for its hooks before it ends the collectives, and after that. torch's flight
// recorder dumps its trace in such a hook, which takes several seconds.
constexpr std::chrono::seconds kHookPatience{1};
constexpr std::chrono::seconds kHookLimit{60};

}  // namespace

void BackendPapilio::abort() {
  const auto unlocked = releaseInterpreter();
  if (pid_ != getpid()) return;
  std::map<std::int64_t, std::shared_ptr<c10d::AbortHook>> hooks;
  {
    std::lock_guard lock(hooks_mutex_);
    hooks = abort_hooks_;
  }
  AbortHooksRun run(std::move(hooks));
  run.wait(kHookPatience);
  ledger_->setError(c10d::ErrorType::COMM_ERROR);
  {
    std::lock_guard lock(state_mutex_);
    for (const auto& group : {group_, forming_}) {
      if (group) group->abort("abort() was called");
    }
    if (lanes_) lanes_->leave();
  }
  if (!run.wait(kHookLimit)) {
    TORCH_WARN("papilio: an abort hook still runs after ", kHookLimit.count(),
               " s; abort() returns without it");
  }
}

void BackendPapilio::registerAbortHook(int64_t id, c10d::AbortHook hook) {
  auto held = std::make_shared<c10d::AbortHook>(std::move(hook));
  std::lock_guard lock(hooks_mutex_);
  abort_hooks_[id].swap(held);
}

void BackendPapilio::unregisterAbortHook(int64_t id) {
  std::shared_ptr<c10d::AbortHook> held;  // dropped without the lock
  std::lock_guard lock(hooks_mutex_);
  if (const auto found = abort_hooks_.find(id); found != abort_hooks_.end()) {
    held.swap(found->second);
    abort_hooks_.erase(found);
  }
}

void BackendPapilio::registerOnCompletionHook(WorkLedger::Hook&& hook) {
  const auto held = std::make_shared<WorkLedger::Hook>(std::move(hook));
  ledger_->setHook(held);
  // What torch's hasHooks() looks at.
  onCompletionHook_ = [held](std::shared_ptr<c10d::WorkInfo> info) { (*held)(std::move(info)); };
}

#ifdef PAPILIO_TORCH_HAS_COMPLETION_HOOKS
void BackendPapilio::registerCompletionHook(int64_t id, c10d::CompletionHook hook) {
  ledger_->addObserver(id, [hook = std::move(hook)](std::uint64_t key, float duration) {
    hook({.completionKey = key, .duration_ms = duration});
  });
}
#endif

void BackendPapilio::waitForPendingWorks() {
  const auto unlocked = releaseInterpreter();
  if (pid_ != getpid()) return;
  TORCH_CHECK_WITH(DistBackendError, ledger_->waitAll(), "papilio: the works of group ", name_,
                   " did not complete within their timeouts; the progress thread of this process "
                   "does not answer");
}

void BackendPapilio::shutdownAll() {
  std::lock_guard lock(living_mutex);
  for (BackendPapilio* backend : living) backend->shutdown();
}

std::vector<BackendPapilio::Glance> BackendPapilio::openGroups() {
  std::vector<Glance> out;
  std::lock_guard lock(living_mutex);
  for (BackendPapilio* backend : living) {
    if (backend->pid_ != getpid()) continue;
    std::lock_guard state(backend->state_mutex_);
    if (!backend->process_) continue;
    out.push_back({backend->name_, backend->rank_, backend->size_, backend->group_,
                   backend->process_->engine().stats()});
  }
  return out;
}

std::size_t BackendPapilio::openGroupCount() {
  std::lock_guard lock(living_mutex);
  return static_cast<std::size_t>(std::count_if(living.begin(), living.end(), [](auto* backend) {
    std::lock_guard state(backend->state_mutex_);
    return backend->pid_ == getpid() && backend->process_ != nullptr;
  }));
}

// The threads and connections belong to the parent: here they can be neither used nor ended.
void BackendPapilio::forgetParent() {
  new std::shared_ptr<engine::Group>(std::move(group_));
  new std::shared_ptr<Process>(std::move(process_));
  new std::shared_ptr<DeviceQueue>(std::move(device_queue_));
}

void BackendPapilio::shutdown() {
  const auto unlocked = releaseInterpreter();
  if (pid_ != getpid()) return forgetParent();
  c10::intrusive_ptr<c10d::Store> store;  // ends without the lock, as do the next two
  std::shared_ptr<Process> process;
  std::shared_ptr<DeviceQueue> queue;
  {
    std::lock_guard lock(state_mutex_);
    if (group_) group_->leave();
    if (lanes_) lanes_->leave();
    store = std::move(store_);
    queue = std::exchange(device_queue_, nullptr);
    process = std::move(process_);
  }
  if (queue) queue->stop();
  // `process`: the last group of the process also ends the engine.
}

void BackendPapilio::requireOwnProcess(const char* what) const {
  TORCH_CHECK_WITH(DistBackendError, pid_ == getpid(), "papilio: ", what,
                   " in a process that was forked from the one that created the group; create a "
                   "group of its own here");
}

std::shared_ptr<engine::Group> BackendPapilio::group() {
  requireOwnProcess("a question to the group");
  std::lock_guard lock(state_mutex_);
  TORCH_CHECK_WITH(DistBackendError, group_ != nullptr, "papilio: group ", name_, ": ", no_group_);
  return group_;
}

engine::StatsMap BackendPapilio::engineStats() {
  requireOwnProcess("a question to the group");
  std::lock_guard lock(state_mutex_);
  return process_ ? process_->engine().stats() : engine::StatsMap{};
}

BackendPapilio::Millis BackendPapilio::effective(Millis timeout) const {
  const bool unset = timeout == c10d::kUnsetTimeout || timeout == kNoTimeout;
  return unset ? timeout_.load() : sane(timeout);
}

std::shared_ptr<DeviceQueue> BackendPapilio::deviceQueue(c10::DeviceType type) {
  std::lock_guard lock(state_mutex_);
  TORCH_CHECK_WITH(DistBackendError, process_ != nullptr, "papilio: group ", name_,
                   " was shut down");
  if (!device_queue_) device_queue_ = std::make_shared<DeviceQueue>(type);
  return device_queue_;
}

void BackendPapilio::settleDevice() {
  std::shared_ptr<DeviceQueue> queue;
  {
    std::lock_guard lock(state_mutex_);
    queue = device_queue_;
  }
  const auto limit = timeout_.load() + WorkLedger::kMargin;
  TORCH_CHECK_WITH(DistBackendError, !queue || queue->drain(limit), "papilio: group ", name_,
                   ": the device has not done the collectives issued before, ", limit.count(),
                   " ms after all of them should have ended");
}

template <class Make, class Fits>
BackendPapilio::WorkPtr BackendPapilio::submitAny(Issue issue, bool message, Make make, Fits fits) {
  requireOwnProcess(issue.op);
  CallbackThreads::mayBlock();  // a callback that issues a collective is likely to wait for it
  std::shared_ptr<CallbackThreads> callbacks;
  std::shared_ptr<engine::Group> group;
  std::shared_ptr<DeviceQueue> queue;
  ErrorContext context{name_, {}, 1, issue.op};
  {
    std::lock_guard lock(state_mutex_);
    TORCH_CHECK_WITH(DistBackendError, process_ != nullptr, "papilio: ", issue.op,
                     " on a group that was shut down");
    TORCH_CHECK_WITH(DistBackendError, group_ != nullptr, "papilio: ", issue.op, " on group ",
                     name_, ": ", no_group_);
    TORCH_CHECK_WITH(DistBackendError, fits(static_cast<std::uint32_t>(size_)),
                     "papilio: ", issue.op,
                     " while another thread reconfigures the group; issue it again");
    callbacks = process_->sharedCallbacks();
    group = group_;
    queue = device_queue_;
    context.rank = Rank{static_cast<std::uint32_t>(rank_)};
    context.size = static_cast<std::uint32_t>(size_);
  }
  std::shared_ptr<DeviceOp> on_device;
  if (const auto device = issue.staged.device()) {
    if (const auto unseen = ledger_->takeUnseen()) {
      std::rethrow_exception(makeException(unseen->context, unseen->seq, unseen->error));
    }
    if (!queue) queue = deviceQueue(device->type());
    on_device =
        queue->begin(std::move(issue.staged), issue.keep, issue.sum, std::move(issue.by_reference));
  }
  const std::string title = std::string("papilio:") + issue.op;
  auto work = c10::make_intrusive<WorkPapilio>(
      std::move(context), issue.type, title.c_str(), message ? 0 : takeNumber(),
      std::move(issue.outputs), std::move(issue.keep), ledger_, effective(issue.call.timeout),
      timing_.load(), on_device);
  const bool queued = on_device || (queue && !queue->idle());
  auto start = [work, group, callbacks, on_device, queue, make = std::move(make),
                awaited = issue.call.awaited && !queued] {
    auto done = work->completer(callbacks);
    if (on_device && on_device->lane() != nullptr) {
      done = on_device->lane()->completer(group, std::move(done),
                                          [on_device, queue] { queue->wake(); });
    }
    auto request = make(on_device.get());
    request.awaited = awaited;
    const Seq seq = group->submit(std::move(request), work->timeout(), std::move(done));
    work->issued(group, seq);
  };
  if (queued) {
    queue->add(on_device, [start = std::move(start), work, callbacks, op = on_device] {
      try {
        start();
      } catch (const std::exception& error) {  // there is no caller to throw to
        engine::Completion completion;
        completion.error.kind = fault::ErrorKind::aborted;
        completion.error.text = std::string("it could not be submitted: ") + error.what();
        if (op && op->lane() != nullptr) op->lane()->giveUp();
        work->completer(callbacks)(completion);
      }
    });
  } else {
    start();
  }
  addToBlock(work);
  return work;
}

BackendPapilio::WorkPtr BackendPapilio::submit(Issue issue, MakeStrict make) {
  const bool by_itself = alone();
  if (by_itself) issue.staged.keepOutputs();
  const auto made_for = ring();
  return submitAny(
      std::move(issue), false,
      [=](const DeviceOp*) { return by_itself ? answeredAlone(make(made_for)) : make(made_for); },
      [=](std::uint32_t size) { return made_for.size == size; });
}

BackendPapilio::WorkPtr BackendPapilio::submit(Issue issue, engine::AllreduceRequest request) {
  TORCH_CHECK_WITH(DistBackendError, !alone() || trains_alone_, "papilio: rank ", rank_,
                   " was restarted while the others went on, and ", issue.op,
                   " would average its own gradients only; call papilio.attach(model, optimizer) "
                   "before training, so that it can come back, or start the whole job again");
  const auto withShare = [request](DeviceOp* on_device) {
    if (on_device != nullptr && on_device->lane() != nullptr) return on_device->lane()->request();
    auto out = request;
    if (on_device != nullptr) out.share = on_device->share();
    return out;
  };
  return submitAny(std::move(issue), false, withShare, [](std::uint32_t) { return true; });
}

BackendPapilio::WorkPtr BackendPapilio::submit(Issue issue, engine::MessageRequest request) {
  return submitAny(
      std::move(issue), true, [=](const DeviceOp*) { return request; },
      [&](std::uint32_t size) { return !request.peer || request.peer->value < size; });
}

}  // namespace papilio::pg
