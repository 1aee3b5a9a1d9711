// The c10d backend "papilio" for CPU tensors. Every collective returns at once with a WorkPapilio;
// floating all-reduces (SUM, AVG, PREMUL_SUM) are tolerant rounds, everything else is strict.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "engine/engine.hpp"
#include "process_group/process.hpp"
#include "process_group/strict_requests.hpp"
#include "process_group/work.hpp"

namespace papilio::pg {

// papilio.Options, resolved and validated in Python.
struct Settings {
  fault::GroupOptions group;
  std::string fingerprint;
  std::string interface;
  std::string transport = "auto";
  std::string log_level = "warn";
  std::size_t report_history = 256;
};

// Overrides the group's mode for collectives issued by this thread (papilio.strict(), .tolerant()).
enum class ModeOverride : std::uint8_t { none, strict, tolerant };
ModeOverride& modeOverride();

using EventHandler = std::function<void(const std::string& group, const fault::Event&)>;

class BackendPapilio final : public c10d::Backend {
 public:
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;
  using Tensors = std::vector<at::Tensor>;

  // Meets the other ranks at the store and waits until all are connected; throws what meet() throws
  // and DistBackendError for ranks that can not be reached within `timeout`.
  BackendPapilio(c10::intrusive_ptr<c10d::Store> store, int rank, int size, std::string name,
                 Settings settings, std::chrono::milliseconds timeout, EventHandler on_event);
  ~BackendPapilio() override;

  const std::string getBackendName() const override { return "papilio"; }
  c10::intrusive_ptr<Options> getBackendOptions() override;
  void setTimeout(std::chrono::milliseconds timeout) override;
  void setSequenceNumberForGroup() override {}
  std::uint64_t getSequenceNumberForGroup() override { return last_seq_; }
  void enableCollectivesTiming() override { timing_ = true; }
  c10d::ErrorType getError() override { return error_; }
  void abort() override;
  void shutdown() override;
  // shutdown() of every group of this process; without the interpreter lock.
  static void shutdownAll();

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

  engine::Group& group();  // throws DistBackendError in a forked child
  const std::string& name() const { return name_; }
  engine::StatsMap engineStats();

 private:
  struct Issue {
    const char* op;
    c10d::OpType type;
    std::chrono::milliseconds timeout;
    Tensors outputs;
    Tensors keep;
  };
  WorkPtr submit(Issue issue, engine::StrictRequest request);
  WorkPtr submit(Issue issue, engine::AllreduceRequest request);
  WorkPtr submit(Issue issue, engine::MessageRequest request);
  template <class Request>
  WorkPtr submitAny(Issue issue, Request request);
  void addToBlock(const WorkPtr& work);
  void forgetParent();
  void requireOwnProcess(const char* what) const;
  std::chrono::milliseconds effective(std::chrono::milliseconds timeout) const;
  bool bounded() const;  // the mode of this call
  bool tolerant(const RoundShape& shape) const;
  RoundShape shapeFor(OpKind kind, const at::Tensor& tensor) const;
  Ring ring() const {
    return {static_cast<std::uint32_t>(rank_), static_cast<std::uint32_t>(size_)};
  }
  WorkPtr exchange(Issue issue, bool sends, std::optional<int> peer, int tag);
  WorkPtr reduceScatter(Issue issue, const at::Tensor& output, const std::vector<Buffer>& inputs,
                        const c10d::ReduceOp& op);

  const std::string name_;
  const Settings settings_;
  std::atomic<std::chrono::milliseconds> timeout_;
  const pid_t pid_;
  std::shared_ptr<Process> process_;
  std::shared_ptr<engine::Group> group_;
  std::atomic<std::uint64_t> last_seq_{0};
  std::atomic<bool> timing_{false};
  std::atomic<c10d::ErrorType> error_{c10d::ErrorType::SUCCESS};
  std::mutex shutdown_mutex_;
  std::atomic<std::uint32_t> monitored_barriers_{0};
  std::mutex blocks_mutex_;
  std::map<std::thread::id, std::vector<WorkPtr>> blocks_;  // open coalescing blocks, by thread
};

}  // namespace papilio::pg
