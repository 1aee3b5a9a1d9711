// torch's fault-tolerance interface: members that are chosen outside, by handle.
#include <algorithm>
#include <chrono>
#include <future>
#include <string_view>

#include "core/hash.hpp"
#include "process_group/backend.hpp"
#include "process_group/interpreter.hpp"

#ifdef C10D_BACKEND_HAS_RECONFIGURE

namespace papilio::pg {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kLook{50};  // how often a wait looks for deaths
constexpr std::chrono::milliseconds kLeast{1};
constexpr std::string_view kHandlePrefix = "papilio:1:";

struct Handles {
  std::vector<std::string> texts;    // by rank
  std::vector<std::string> records;  // engine::GroupConfig::records
};

// "papilio:1:<number of the backend in its process>:<record of the process>"
std::string recordOf(const std::string& handle) {
  const bool ours = handle.starts_with(kHandlePrefix);
  const auto end = ours ? handle.find(':', kHandlePrefix.size()) : std::string::npos;
  TORCH_CHECK_VALUE(end != std::string::npos && end + 1 < handle.size(), "papilio: '", handle,
                    "' is no handle of this version; pass what get_reconfigure_handle() returned "
                    "on each member");
  return handle.substr(end + 1);
}

// A list says who has which rank; a set leaves it to us, and all members must decide alike.
Handles orderedHandles(const c10d::ReconfigureOptions& opts) {
  Handles out;
  if (const auto* list = std::get_if<std::vector<std::string>>(&opts.handles)) {
    out.texts = *list;
  } else {
    const auto& any = std::get<std::unordered_set<std::string>>(opts.handles);
    out.texts.assign(any.begin(), any.end());
    std::sort(out.texts.begin(), out.texts.end());
  }
  for (const auto& text : out.texts) {
    out.records.push_back(recordOf(text));
    TORCH_CHECK_VALUE(std::count(out.records.begin(), out.records.end(), out.records.back()) == 1,
                      "papilio: two of the handles are of one process (", out.records.back(),
                      "); a process can be in a group once");
  }
  return out;
}

GroupId identityOf(std::int64_t uuid, const Handles& handles) {
  auto hash = hashCombine(hashBytes("reconfigure"), static_cast<std::uint64_t>(uuid));
  for (const auto& text : handles.texts) hash = hashCombine(hash, hashBytes(text));
  return GroupId{static_cast<std::uint32_t>(hash ^ (hash >> 32))};
}

// Who of the members is known to have ended.
fault::RoundError lostMembers(engine::Group& group) {
  fault::RoundError error;
  for (const auto& peer : group.peers()) {
    if (peer.state != fault::PeerState::dead && peer.state != fault::PeerState::left) continue;
    error.kind = fault::ErrorKind::peer_failed;
    const bool left = peer.state == fault::PeerState::left;
    error.reason = left ? fault::Reason::left : fault::Reason::dead;
    error.ranks.insert(peer.rank);
    error.text = "its process has ended or left; reconfigure again, with a new uuid and without it";
  }
  return error;
}

// Waits until all members are there or one of them never will be; who is missing at the end.
std::map<Rank, std::string> awaitMembers(engine::Group& group, Clock::time_point until,
                                         fault::RoundError& error) {
  while (true) {
    const auto slice = std::min(until, Clock::now() + kLook);
    auto missing = group.waitReady(std::max<Clock::duration>(slice - Clock::now(), kLeast));
    error = lostMembers(group);
    // Back before the slice was over: complete, or somebody can not be met at all.
    const auto now = Clock::now();
    if (error || missing.empty() || now < slice || now >= until) return missing;
  }
}

// One byte from everybody to everybody. A member that came too late finds the others connected,
// although they have given up and are about to say so: only what each gives once it has met all
// shows that it is a member. A barrier is not enough, it goes on without a rank that leaves.
fault::RoundError confirm(engine::Group& group, Ring ring, Clock::time_point until) {
  const auto limit = std::max<Clock::duration>(until - Clock::now(), kLeast);
  const auto bytes = std::make_shared<std::vector<std::byte>>(ring.size + 1);
  const Buffer mine{bytes->data() + ring.size, 1};
  std::vector<Buffer> theirs;
  for (std::uint32_t r = 0; r < ring.size; ++r) theirs.push_back({bytes->data() + r, 1});
  RoundShape shape;
  shape.kind = OpKind::allgather;
  shape.dtype = DType::uint8;
  shape.numel = 1;
  auto request = strictAllgather(ring, shape, mine, theirs);
  const auto outcome = std::make_shared<std::promise<fault::RoundError>>();
  group.submit(std::move(request), limit, [outcome, bytes](const engine::Completion& completion) {
    outcome->set_value(completion.error);
  });
  auto answer = outcome->get_future();
  if (answer.wait_for(limit + WorkLedger::kMargin) == std::future_status::ready) {
    return answer.get();
  }
  fault::RoundError error;
  error.kind = fault::ErrorKind::deadline_exceeded;
  error.text = "the progress thread of this process does not answer";
  return error;
}

}  // namespace

c10d::ReconfigureHandle BackendPapilio::get_reconfigure_handle() const {
  requireOwnProcess("get_reconfigure_handle");
  std::lock_guard lock(state_mutex_);
  TORCH_CHECK_WITH(DistBackendError, process_ != nullptr, "papilio: group ", name_,
                   " was shut down");
  return std::string(kHandlePrefix) + std::to_string(identity_) + ":" +
         process_->engine().localRecord();
}

BackendPapilio::WorkPtr BackendPapilio::ended(const char* op, Millis timeout,
                                              const fault::RoundError& error) {
  std::shared_ptr<CallbackThreads> callbacks;
  ErrorContext context{name_, {}, 1, op};
  {
    std::lock_guard lock(state_mutex_);
    TORCH_CHECK_WITH(DistBackendError, process_ != nullptr, "papilio: group ", name_,
                     " was shut down");
    callbacks = process_->sharedCallbacks();
    context.rank = Rank{static_cast<std::uint32_t>(rank_)};
    context.size = static_cast<std::uint32_t>(size_);
  }
  const std::string title = std::string("papilio:") + op;
  auto work = c10::make_intrusive<WorkPapilio>(std::move(context), c10d::OpType::UNKNOWN,
                                               title.c_str(), 0, Tensors{}, Tensors{}, ledger_,
                                               timeout, timing_.load(), nullptr);
  engine::Completion completion;
  completion.error = error;
  work->completer(std::move(callbacks))(completion);
  return work;
}

BackendPapilio::WorkPtr BackendPapilio::reconfigure(const c10d::ReconfigureOptions& opts) {
  const auto unlocked = releaseInterpreter();
  requireOwnProcess("reconfigure");
  std::lock_guard one_at_a_time(reconfigure_mutex_);
  const auto handles = orderedHandles(opts);
  const auto mine = std::find(handles.texts.begin(), handles.texts.end(), get_reconfigure_handle());
  TORCH_CHECK_VALUE(mine != handles.texts.end(), "papilio: the own handle is not among the ",
                    handles.texts.size(), " handles; who is not a member does not reconfigure");
  TORCH_CHECK_WITH(DistBackendError, !used_uuids_.contains(opts.uuid), "papilio: reconfigure uuid ",
                   opts.uuid, " was already used by this group; take a new one for every attempt");
  const auto timeout = effective(opts.timeout.value_or(c10d::kUnsetTimeout));
  settleDevice();
  const auto until = Clock::now() + timeout;
  const Meeting met{identityOf(opts.uuid, handles), handles.records};
  const int rank = static_cast<int>(mine - handles.texts.begin());
  auto group = open(met, rank, timeout);
  used_uuids_.insert(opts.uuid);

  std::shared_ptr<engine::Group> before;
  {
    std::lock_guard lock(state_mutex_);
    before = std::move(group_);
    group_ = nullptr;
    no_group_ = "it is being reconfigured";
    forming_ = group;
  }
  if (before) before->leave();

  fault::RoundError error;
  const auto missing = awaitMembers(*group, until, error);
  if (!error && group->aborted()) {
    error.kind = fault::ErrorKind::aborted;
    error.text = "abort() was called";
  } else if (!error && !missing.empty()) {
    error.kind = fault::ErrorKind::deadline_exceeded;
    for (const auto& [peer, why] : missing) error.ranks.insert(peer);
    error.text = "after " + std::to_string(timeout.count()) +
                 " ms not all members were there: " + describe(met, missing) +
                 "; reconfigure again, with a new uuid";
  }
  if (!error) {
    const Ring ring{static_cast<std::uint32_t>(rank),
                    static_cast<std::uint32_t>(met.records.size())};
    error = confirm(*group, ring, until);
  }
  {
    std::lock_guard lock(state_mutex_);
    forming_ = nullptr;
  }
  if (error) {
    group->leave();
    {
      std::lock_guard lock(state_mutex_);
      no_group_ = "its last reconfigure failed; call reconfigure() with a new uuid";
    }
    return ended("reconfigure", timeout, error);
  }
  join(std::move(group), met, rank);
  ++generation_;
  last_number_ = 0;
  ledger_->setError(c10d::ErrorType::SUCCESS);
  return ended("reconfigure", timeout, {});
}

}  // namespace papilio::pg

#endif
