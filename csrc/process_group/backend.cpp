#include "process_group/backend.hpp"

#include "core/hash.hpp"
#include "process_group/convert.hpp"
#include "process_group/rendezvous.hpp"

#include <torch/csrc/utils/pybind.h>
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

// The callback thread may need the interpreter lock to finish what we wait for.
std::unique_ptr<pybind11::gil_scoped_release> releaseInterpreter() {
  if (Py_IsInitialized() == 0 || PyGILState_Check() == 0) return nullptr;
  return std::make_unique<pybind11::gil_scoped_release>();
}

}  // namespace

ModeOverride& modeOverride() {
  thread_local ModeOverride value = ModeOverride::none;
  return value;
}

BackendPapilio::BackendPapilio(c10::intrusive_ptr<c10d::Store> store, int rank, int size,
                               std::string name, Settings settings,
                               std::chrono::milliseconds timeout, EventHandler on_event)
    : Backend(rank, size),
      name_(std::move(name)),
      settings_(std::move(settings)),
      timeout_(sane(timeout)),
      pid_(getpid()) {
  timeout = sane(timeout);
  process_ = Process::acquire(settings_.transport, [&] {
    return ProcessSettings{settings_.interface, jobSecret(*store), settings_.log_level,
                           settings_.transport};
  });
  const auto met = meet(*store, rank, size, process_->engine().localRecord(),
                        process_->nextGroupNumber(), timeout);
  engine::GroupConfig config;
  config.name = name_;
  config.id = met.id;
  config.rank = Rank{static_cast<std::uint32_t>(rank)};
  config.size = static_cast<std::uint32_t>(size);
  config.records = met.records;
  config.options = settings_.group;
  config.options.timeout = timeout;
  if (!settings_.fingerprint.empty()) {
    config.options.fingerprint = hashBytes(settings_.fingerprint) | 1;
  }
  config.report_history = settings_.report_history;
  if (on_event) {
    // The handler needs the interpreter lock: never on the progress thread.
    config.on_event = [callbacks = &process_->callbacks(), handler = std::move(on_event),
                       group = name_](const fault::Event& event) {
      callbacks->post([=] { handler(group, event); });
    };
  }
  group_ = process_->engine().createGroup(std::move(config));
  const auto missing = group_->waitReady(timeout);
  if (missing.empty()) {
    std::lock_guard lock(living_mutex);
    living.insert(this);
    return;
  }
  std::string text;
  for (const auto& [peer, why] : missing) {
    text += (text.empty() ? "rank " : ", rank ") + std::to_string(peer.value) + " (" + why + ", " +
            met.records[peer.value] + ")";
  }
  group_->leave();
  C10_THROW_ERROR(DistBackendError, "papilio[rank " + std::to_string(rank) + "/" +
                                        std::to_string(size) + " " + name_ +
                                        "] could not connect within " +
                                        std::to_string(timeout.count() / 1000) + " s: " + text +
                                        "; is the address reachable from this host?");
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
  return c10::make_intrusive<Options>("papilio", timeout_.load());
}

void BackendPapilio::setTimeout(std::chrono::milliseconds timeout) { timeout_ = sane(timeout); }

void BackendPapilio::abort() {
  if (pid_ != getpid()) return;
  error_ = c10d::ErrorType::COMM_ERROR;
  group_->abort("abort() was called");
}

void BackendPapilio::shutdownAll() {
  std::lock_guard lock(living_mutex);
  for (BackendPapilio* backend : living) backend->shutdown();
}

// The threads and connections belong to the parent: here they can be neither used nor ended.
void BackendPapilio::forgetParent() {
  new std::shared_ptr<engine::Group>(std::move(group_));
  new std::shared_ptr<Process>(std::move(process_));
}

void BackendPapilio::shutdown() {
  const auto unlocked = releaseInterpreter();
  if (pid_ != getpid()) return forgetParent();
  std::lock_guard lock(shutdown_mutex_);
  if (group_) group_->leave();
  process_.reset();  // the last group of the process also ends the engine
}

void BackendPapilio::requireOwnProcess(const char* what) const {
  TORCH_CHECK_WITH(DistBackendError, pid_ == getpid(), "papilio: ", what,
                   " in a process that was forked from the one that created the group; create a "
                   "group of its own here");
}

engine::Group& BackendPapilio::group() {
  requireOwnProcess("a question to the group");
  return *group_;
}

engine::StatsMap BackendPapilio::engineStats() {
  requireOwnProcess("a question to the group");
  std::lock_guard lock(shutdown_mutex_);
  return process_ ? process_->engine().stats() : engine::StatsMap{};
}

std::chrono::milliseconds BackendPapilio::effective(std::chrono::milliseconds timeout) const {
  const bool unset = timeout == c10d::kUnsetTimeout || timeout == kNoTimeout;
  return unset ? timeout_.load() : sane(timeout);
}

template <class Request>
BackendPapilio::WorkPtr BackendPapilio::submitAny(Issue issue, Request request) {
  requireOwnProcess(issue.op);
  const auto timeout = effective(issue.timeout);
  ErrorContext context{name_, Rank{static_cast<std::uint32_t>(rank_)},
                       static_cast<std::uint32_t>(size_), issue.op};
  const std::string title = std::string("papilio:") + issue.op;
  auto work = c10::make_intrusive<WorkPapilio>(std::move(context), issue.type, title.c_str(),
                                               std::move(issue.outputs), std::move(issue.keep),
                                               timeout, timing_.load());
  std::shared_ptr<CallbackThread> callbacks;
  {
    std::lock_guard lock(shutdown_mutex_);
    if (process_) callbacks = process_->sharedCallbacks();
  }
  TORCH_CHECK_WITH(DistBackendError, callbacks != nullptr, "papilio: ", issue.op,
                   " on a group that was shut down");
  const Seq seq = group_->submit(std::move(request), timeout, work->completer(callbacks));
  if constexpr (!std::is_same_v<Request, engine::MessageRequest>) last_seq_ = seq.value;
  work->issued(group_, seq);
  addToBlock(work);
  return work;
}

BackendPapilio::WorkPtr BackendPapilio::submit(Issue issue, engine::StrictRequest request) {
  return submitAny(std::move(issue), std::move(request));
}

BackendPapilio::WorkPtr BackendPapilio::submit(Issue issue, engine::AllreduceRequest request) {
  return submitAny(std::move(issue), request);
}

BackendPapilio::WorkPtr BackendPapilio::submit(Issue issue, engine::MessageRequest request) {
  return submitAny(std::move(issue), std::move(request));
}

}  // namespace papilio::pg
