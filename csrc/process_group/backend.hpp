// The c10d backend "papilio". Every collective returns at once with a WorkPapilio; floating
// all-reduces (SUM, AVG, PREMUL_SUM) are tolerant rounds, everything else is strict. Tensors on a
// device go through pinned host memory, in the order of the caller's stream (device_op.hpp).
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>

#include "engine/engine.hpp"
#include "process_group/device_lanes.hpp"
#include "process_group/device_queue.hpp"
#include "process_group/host_combiner.hpp"
#include "process_group/options.hpp"
#include "process_group/process.hpp"
#include "process_group/rendezvous.hpp"
#include "process_group/strict_requests.hpp"
#include "process_group/work.hpp"
#include "process_group/work_ledger.hpp"

namespace papilio::pg {

// Overrides the group's mode for collectives issued by this thread (papilio.strict(), .tolerant()).
enum class ModeOverride : std::uint8_t { none, strict, tolerant };
ModeOverride& modeOverride();

class BackendPapilio;
// What a group tells its creator, and asks of it. All may be empty.
struct Listeners {
  std::function<void(const std::string& group, const fault::Event&)> on_event;  // callback threads
  // A group was made from this one (split, shrink, merge); in the thread that made it.
  std::function<void(const c10::intrusive_ptr<BackendPapilio>&)> on_group;
  // A backend of that name for ranks of this host, which know each other by `key`.
  std::function<c10::intrusive_ptr<c10d::Backend>(const std::string& name, const std::string& key,
                                                  int rank, int size)>
      make_host_backend;
};

class BackendPapilio final : public c10d::Backend {
 public:
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;
  using Tensors = std::vector<at::Tensor>;
  using Millis = std::chrono::milliseconds;

  // Meets the other ranks at the store and waits until all are connected; throws what meet() throws
  // and DistBackendError for ranks that can not be reached within `timeout`. `deferred`: meets
  // nobody, and has no members before reconfigure(). `rejoin`: may take the place of a process
  // that died; the rank is then alone() until install().
  static c10::intrusive_ptr<BackendPapilio> atStore(c10d::Store& store, int rank, int size,
                                                    std::string name, Settings settings,
                                                    Millis timeout, Listeners listeners,
                                                    bool deferred, bool rejoin);
  // A backend that has no members yet; used by the functions that make groups.
  BackendPapilio(std::shared_ptr<Process> process, int rank, int size, std::string name,
                 Settings settings, Millis timeout, Listeners listeners);
  ~BackendPapilio() override;

  const std::string getBackendName() const override { return "papilio"; }
  c10::intrusive_ptr<Options> getBackendOptions() override;
  void setTimeout(std::chrono::milliseconds timeout) override;
  void setSequenceNumberForGroup() override {}
  // Collectives issued here; a coalesced call or block counts once, messages do not.
  std::uint64_t getSequenceNumberForGroup() override { return last_number_; }
  void enableCollectivesTiming() override { timing_ = true; }
  // Of the latest work that failed, or of abort(); SUCCESS again after reconfigure().
  c10d::ErrorType getError() override { return ledger_->error(); }
  void abort() override;
  void shutdown() override;
  // shutdown() of every group of this process; without the interpreter lock.
  static void shutdownAll();

  // New groups of members of this one. They need neither the store nor the ranks left out, and they
  // begin at once when a member is dead: it is dead in the new group too. Members list the same
  // ranks of this group in the same order.
  bool supportsSplitting() const override { return true; }
  c10::intrusive_ptr<Backend> split(const c10::intrusive_ptr<c10d::Store>& store,
                                    const std::vector<int>& ranks,
                                    const c10::intrusive_ptr<Options>& opts) override;
  bool supportsShrinking() const override { return true; }
  c10::intrusive_ptr<Backend> shrink(const std::vector<int64_t>& excluded, int flags,
                                     const c10::intrusive_ptr<Options>& opts) override;
  // The members of several groups meet at a store.
  c10::intrusive_ptr<Backend> merge(const c10::intrusive_ptr<c10d::Store>& store,
                                    const c10::intrusive_ptr<Options>& opts, const int& rank,
                                    const int& size) override;

#ifdef C10D_BACKEND_HAS_RECONFIGURE
  bool supportsReconfigure() const override { return true; }
  c10d::ReconfigureHandle get_reconfigure_handle() const override;
  // Ends the membership that this backend has and takes on the one given. Blocks until all are
  // there; the Work says how it went. When it throws (wrong handles, a used uuid), nothing has
  // changed. When the Work fails, the backend has no members and waits for another reconfigure().
  // Not at the same time as a collective of another thread.
  WorkPtr reconfigure(const c10d::ReconfigureOptions& opts) override;
#endif

  // Run by abort() before it ends anything, in its thread.
  void registerAbortHook(int64_t id, c10d::AbortHook hook) override;
  void unregisterAbortHook(int64_t id) override;
  void registerOnCompletionHook(WorkLedger::Hook&& hook) override;
#ifdef PAPILIO_TORCH_HAS_COMPLETION_HOOKS
  bool supportsAbortHooks() const override { return true; }
  bool supportsCompletionHooks() const override { return true; }
  void registerCompletionHook(int64_t id, c10d::CompletionHook hook) override;
  void unregisterCompletionHook(int64_t id) override { ledger_->removeObserver(id); }
#endif
  void waitForPendingWorks() override;
  void addEphemeralTimeout(const Millis& by) override { ledger_->extend(by); }

  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& opts) override;
  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& opts) override;
  WorkPtr allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                    const c10d::AllgatherOptions& opts) override;
  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input,
                          const c10d::AllgatherOptions& opts) override;
  WorkPtr gather(std::vector<Tensors>& outputs, Tensors& inputs,
                 const c10d::GatherOptions& opts) override;
  WorkPtr scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                  const c10d::ScatterOptions& opts) override;
  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& opts) override;
  WorkPtr reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                         const c10d::ReduceScatterOptions& opts) override;
  WorkPtr _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                               const c10d::ReduceScatterOptions& opts) override;
  WorkPtr alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& opts) override;
  WorkPtr alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& out_splits,
                        std::vector<int64_t>& in_splits,
                        const c10d::AllToAllOptions& opts) override;
  WorkPtr barrier(const c10d::BarrierOptions& opts) override;
  void monitoredBarrier(const c10d::BarrierOptions& opts, bool wait_all_ranks = false) override;

  // Sums sparse tensors in place; allreduce() hands them here. Done when it returns.
  WorkPtr allreduce_sparse(Tensors& tensors, const c10d::AllreduceOptions& opts) override;

  // Several collectives as one Work. Each is a round of its own; they run at the same time.
  WorkPtr allreduce_coalesced(Tensors& tensors,
                              const c10d::AllreduceCoalescedOptions& opts) override;
  WorkPtr allgather_coalesced(std::vector<Tensors>& outputs, Tensors& inputs,
                              const c10d::AllgatherOptions& opts) override;
  WorkPtr allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::AllgatherOptions& opts) override;
  WorkPtr reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::ReduceScatterOptions& opts) override;
  WorkPtr gather_into_tensor(at::Tensor& output, at::Tensor& input,
                             const c10d::GatherOptions& opts) override;
  // What this thread issues in between is also covered by the Work that endCoalescing() returns. A
  // block that was never ended (torch does not end one whose body threw) is forgotten.
  void startCoalescing() override;
  WorkPtr endCoalescing() override;

  WorkPtr send(Tensors& tensors, int to, int tag) override;
  WorkPtr recv(Tensors& tensors, int from, int tag) override;
  WorkPtr recvAnysource(Tensors& tensors, int tag) override;

  // Throws DistBackendError in a forked child and when there are no members.
  std::shared_ptr<engine::Group> group();
  const std::string& name() const { return name_; }
  const Settings& settings() const { return settings_; }
  std::uint64_t number() const { return identity_; }  // among the backends of this process
  // How often reconfigure() has installed members; rounds are numbered from 1 after each.
  std::uint64_t generation() const { return generation_; }
  engine::StatsMap engineStats();

  // Membership that changes between training steps (backend_views.cpp; papilio/_membership.py).
  // Nobody else is in the group: its collectives complete with the own values.
  bool alone() const { return alone_; }
  // Until this is said, an averaging all-reduce alone is an error: a script that was restarted and
  // does not know how to come back would train on for ever by itself.
  void trainAlone() { trains_alone_ = true; }
  Meeting membership() const;
  std::string record() const;  // of this process, as a joiner
  bool isShutDown() const;
  // The store that the group met at, until shutdown(); null for a group that met at none.
  c10::intrusive_ptr<c10d::Store> store() const;
  void keepStore(c10::intrusive_ptr<c10d::Store> store);
  void want(const Joiner& joiner);
  // Connects to processes; see engine::Engine::reachable().
  std::pair<std::size_t, std::size_t> meetMembers(const std::vector<std::string>& records);
  // Blocks while a change is being decided; see engine::Group::boundary().
  engine::Boundary boundary();
  // The membership that a decision leads to; the same on all members.
  Meeting following(const NextView& next) const;
  // Leaves the present view for that one. Waits up to patience for its members and goes on without
  // those that did not come; returns them. Not at the same time as a collective of another thread.
  std::map<Rank, std::string> install(Meeting next);
  // Point to point, for what a new member is told; `channel` 0, 1, … keeps streams apart.
  WorkPtr sendState(const at::Tensor& tensor, int to, int channel);
  WorkPtr recvState(const at::Tensor& tensor, int from, int channel);
  // Leaves the group and is alone; to come back as a joiner.
  void withdraw();

  // A group of this process that is open, for onlookers; any thread. Before its first
  // reconfigure() it has no `group`.
  struct Glance {
    std::string name;
    int rank = 0;
    int size = 0;
    std::shared_ptr<engine::Group> group;
    engine::StatsMap engine;
  };
  static std::vector<Glance> openGroups();
  // How many there are; asks no engine.
  static std::size_t openGroupCount();

 private:
  // What the caller says of the call, whatever it does.
  struct Call {
    std::chrono::milliseconds timeout;
    bool awaited = false;  // it calls wait() right away
    Call(std::chrono::milliseconds limit) : timeout(limit) {}
    template <class Options>
    Call(const Options& options) : timeout(options.timeout), awaited(!options.asyncOp) {}
  };
  struct Issue {
    const char* op;
    c10d::OpType type;
    Call call;
    Tensors outputs;
    Tensors keep;
    Staged staged;  // what the request points into, when that is not in `keep`
    std::optional<SumIssue> sum = std::nullopt;
    std::optional<LaneIssue> by_reference = std::nullopt;
  };
  // Called when the inputs are in host memory: here, or later on another thread.
  using MakeStrict = std::function<engine::StrictRequest(Ring ring)>;
  WorkPtr submit(Issue issue, MakeStrict make);
  WorkPtr submit(Issue issue, engine::AllreduceRequest request);
  WorkPtr submit(Issue issue, engine::MessageRequest request);
  // `make`: gives the request, when its data is in host memory. `fits`: was it written for a group
  // of this size? (reconfigure() changes it.)
  template <class Make, class Fits>
  WorkPtr submitAny(Issue issue, bool message, Make make, Fits fits);
  std::shared_ptr<DeviceQueue> deviceQueue(c10::DeviceType type);
  // Until the device has done everything that was issued; its collectives end in bounded time.
  void settleDevice();
  void addToBlock(const WorkPtr& work);
  std::uint64_t takeNumber();
  std::uint64_t takeNumberInBlock();
  void forgetParent();
  // A group of these members, which need not be connected yet.
  std::shared_ptr<engine::Group> open(const Meeting& met, int rank, Millis timeout);
  // Of the members of this host, if some share one and others do not; backend_hierarchy.cpp.
  struct Tiers {
    std::unique_ptr<HostCombiner> host;  // null: there is one level
    std::shared_ptr<HostSums> device;
  };
  Tiers tiersFor(Process& process, const Meeting& met, engine::GroupConfig& whole) const;
  std::shared_ptr<HostSums> hostBackendFor(const engine::GroupConfig& host,
                                           const std::vector<Rank>& members) const;
  // Of a group whose members share one host, if they are to average tensors on devices there.
  std::shared_ptr<DeviceLanes> lanesFor(const Meeting& met, int rank) const;
  std::shared_ptr<DeviceLanes> lanesOf(Rank me) const;
  std::optional<LaneIssue> laneIssue(const at::Tensor& tensor, const RoundShape& shape) const;
  // Of a tensor on a device that is worth a sum within the host first.
  std::optional<SumIssue> sumIssue(const Staged& staged, const RoundShape& shape) const;
  std::string describe(const Meeting& met, const std::map<Rank, std::string>& missing) const;
  void enter(Meeting met);  // open() and wait; throws DistBackendError naming who is missing
  void join(std::shared_ptr<engine::Group> group, Meeting met, int rank);
  void beAlone(Meeting met);
  c10::intrusive_ptr<BackendPapilio> derive(const std::string& name, const std::vector<int>& ranks,
                                            const c10::intrusive_ptr<Options>& opts);
  WorkPtr ended(const char* op, Millis timeout, const fault::RoundError& error);
  void requireOwnProcess(const char* what) const;
  Millis effective(Millis timeout) const;
  bool bounded() const;  // the mode of this call
  bool tolerant(const RoundShape& shape) const;
  RoundShape shapeFor(OpKind kind, const at::Tensor& tensor) const;
  Ring ring() const {
    return {static_cast<std::uint32_t>(rank_), static_cast<std::uint32_t>(size_)};
  }
  WorkPtr exchange(Issue issue, bool sends, std::optional<int> peer, int tag);
  WorkPtr reduceScatter(Issue issue, const at::Tensor& output, const std::vector<Buffer>& inputs,
                        const c10d::ReduceOp& op);

  // While one lives, all collectives that its thread issues have one sequence number.
  class OneNumber {
   public:
    explicit OneNumber(const BackendPapilio& backend);
    ~OneNumber();
    OneNumber(const OneNumber&) = delete;
    OneNumber& operator=(const OneNumber&) = delete;
  };
  struct Block {
    std::vector<WorkPtr> works;
    std::uint64_t number = 0;  // 0: no collective in it yet
  };

  const std::string name_;
  const Settings settings_;
  const Listeners listeners_;
  std::atomic<Millis> timeout_;
  const pid_t pid_;
  const std::uint64_t identity_;  // of this backend in its process
  const std::shared_ptr<WorkLedger> ledger_ = std::make_shared<WorkLedger>();
  std::atomic<std::uint64_t> last_number_{0};
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<bool> timing_{false};
  std::atomic<bool> alone_{false};
  std::atomic<bool> trains_alone_{false};
  std::atomic<std::uint32_t> monitored_barriers_{0};

  mutable std::mutex state_mutex_;  // guards the following, and rank_ and size_
  std::shared_ptr<Process> process_;
  c10::intrusive_ptr<c10d::Store> store_;
  std::shared_ptr<engine::Group> group_;
  std::shared_ptr<DeviceLanes> lanes_;         // may be null
  std::shared_ptr<DeviceQueue> device_queue_;  // from the first collective on a device on
  std::shared_ptr<engine::Group> forming_;     // of a reconfigure() under way
  Meeting met_;
  std::string no_group_;                          // why group_ is null
  std::map<std::string, std::uint64_t> derived_;  // groups made of this one, by name and ranks

  std::mutex reconfigure_mutex_;
  std::set<std::int64_t> used_uuids_;

  std::mutex hooks_mutex_;
  // By pointer: to copy or drop one may take the interpreter lock, which the mutex must not wait
  // for.
  std::map<std::int64_t, std::shared_ptr<c10d::AbortHook>> abort_hooks_;

  std::mutex blocks_mutex_;
  std::map<std::thread::id, Block> blocks_;  // open coalescing blocks, by thread
};

}  // namespace papilio::pg
