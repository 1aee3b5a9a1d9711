// Several collectives that torch sees as one: what a coalesced call and a coalescing block return.
// They run at the same time; each keeps its own deadline, report and number.
#pragma once

#include <torch/csrc/distributed/c10d/Work.hpp>

#include <memory>
#include <vector>

#include "process_group/work_ledger.hpp"

namespace papilio::pg {

class WorkTogether final : public c10d::Work {
 public:
  using Part = c10::intrusive_ptr<c10d::Work>;

  // `outputs`: what result() and the future give. No parts: complete at once.
  // The ledger hears when the last part has ended and all ended well.
  WorkTogether(int rank, c10d::OpType type, std::vector<Part> parts,
               std::vector<at::Tensor> outputs, const std::shared_ptr<WorkLedger>& ledger);

  bool isCompleted() override;
  bool isSuccess() const override;
  std::exception_ptr exception() const override;
  std::vector<at::Tensor> result() override { return outputs_; }
  // Waits for every part, whatever the first one says: their memory is in use until then. An
  // explicit timeout is for all of them together. Throws the first part's error.
  bool wait(std::chrono::milliseconds timeout = kNoTimeout) override;
  void synchronize() override;
  void abort() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFutureResult() override { return result_future_; }
  float getDuration() const override;  // of the longest part
  std::uint64_t getSequencenumber() const override;
#ifdef PAPILIO_TORCH_HAS_COMPLETION_HOOKS
  std::uint64_t getCompletionKey() const override { return key_; }
#endif

 private:
  const std::vector<Part> parts_;
  const std::vector<at::Tensor> outputs_;
  const std::uint64_t key_ = WorkLedger::newKey();
  c10::intrusive_ptr<c10::ivalue::Future> future_;
  c10::intrusive_ptr<c10::ivalue::Future> result_future_;
};

}  // namespace papilio::pg
