// One collective as torch sees it. Completed by who drives the engine, which touches no future,
// tensor or Python object. That is for the thread that sits in wait(), if nobody else wants to be
// told, and for a callback thread otherwise.
#pragma once

#include <torch/csrc/distributed/c10d/Work.hpp>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "engine/engine.hpp"
#include "process_group/callback_threads.hpp"
#include "process_group/device_op.hpp"
#include "process_group/errors.hpp"
#include "process_group/work_ledger.hpp"

namespace papilio::pg {

class WorkPapilio final : public c10d::Work {
 public:
  // `keep`: tensors whose memory the engine uses until the end; `outputs`: what result() returns.
  // Opens an entry in the ledger; `timeout` without the extensions that are kept there. `number`:
  // c10d's sequence number, 0 for a message, which has the engine's. `device`: where the tensors
  // are, null for the CPU.
  WorkPapilio(ErrorContext context, c10d::OpType type, const char* title, std::uint64_t number,
              std::vector<at::Tensor> outputs, std::vector<at::Tensor> keep,
              std::shared_ptr<WorkLedger> ledger, std::chrono::milliseconds timeout, bool timed,
              std::shared_ptr<DeviceOp> device);
  ~WorkPapilio() override;

  // Called once, right after submission, by the thread that submits.
  void issued(std::shared_ptr<engine::Group> group, Seq seq);
  // With the extensions of the timeout that are in force.
  std::chrono::milliseconds timeout() const { return entry_.timeout; }
  // For Group::submit(): hands a completion to this work. Holds a reference until it ran.
  engine::DoneFn completer(std::shared_ptr<CallbackThreads> callbacks);

  bool isCompleted() override;
  bool isSuccess() const override;
  std::exception_ptr exception() const override;
  std::vector<at::Tensor> result() override { return outputs_; }
  // kNoTimeout: the collective's own timeout. After an explicit timeout the collective is ended
  // with DeadlineExceeded and that is thrown.
  // On a device the current stream waits, not the caller, unless a timeout is given, it is a
  // barrier, or it receives from any source. A collective that fails after that is reported by the
  // next one that is issued.
  bool wait(std::chrono::milliseconds timeout = kNoTimeout) override;
  void blockCurrentStream() override;
  // Group rank that a received message came from.
  int sourceRank() const override;
  void synchronize() override;
  void abort() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFutureResult() override;
  float getDuration() const override;
  // One for all parts of a coalesced call; the number in reports and errors is the round's.
  std::uint64_t getSequencenumber() const override;
  std::chrono::milliseconds getTimeout() const override { return entry_.timeout; }
#ifdef PAPILIO_TORCH_HAS_COMPLETION_HOOKS
  std::uint64_t getCompletionKey() const override { return key_; }
#endif

  // Report of the finished collective; nullopt while it runs.
  std::optional<fault::Report> report() const;

 private:
  // Who drives the engine. False: a thread in wait() publishes, and has taken `self` over.
  bool complete(const engine::Completion& completion, c10::intrusive_ptr<WorkPapilio>& self);
  void publish();  // that thread, or a callback thread
  void settle();   // its part that nobody waits for
  bool followOnDevice();
  fault::RoundError waitOnHost(std::chrono::milliseconds timeout);
  bool untold() const;
  void cancelAndWait(const std::string& why);

  const ErrorContext context_;
  const std::vector<at::Tensor> outputs_;
  std::vector<at::Tensor> keep_;
  const std::shared_ptr<WorkLedger> ledger_;
  const WorkLedger::Entry entry_;
  const bool timed_;
  const std::uint64_t number_;
  const std::uint64_t key_ = WorkLedger::newKey();
  const WorkLedger::Clock::time_point started_;
  const std::shared_ptr<DeviceOp> device_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
  c10::intrusive_ptr<c10::ivalue::Future> result_future_;
  std::shared_ptr<engine::Group> group_;
  Seq seq_;
  bool future_taken_ = false;                     // guarded by mutex_, as are the next three
  bool followed_ = false;                         // a stream waits, and nobody for an error
  std::uint32_t waiting_ = 0;                     // threads in wait()
  c10::intrusive_ptr<WorkPapilio> unpublished_;   // itself, from its completion to a waiting thread
  WorkLedger::Clock::time_point finished_;        // guarded by mutex_
  std::optional<engine::Completion> completion_;  // guarded by mutex_
  std::atomic<bool> ended_{false};                // completed_, for a thread that drives
};

}  // namespace papilio::pg
