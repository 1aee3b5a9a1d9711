// One collective as torch sees it. Completed by the progress thread; futures, tensors and Python
// objects are touched by the callback thread only.
#pragma once

#include <torch/csrc/distributed/c10d/Work.hpp>

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "engine/engine.hpp"
#include "process_group/callback_thread.hpp"
#include "process_group/errors.hpp"

namespace papilio::pg {

class WorkPapilio final : public c10d::Work {
 public:
  // `keep`: tensors whose memory the engine uses until the end; `outputs`: what result() returns.
  WorkPapilio(ErrorContext context, c10d::OpType type, const char* title,
              std::vector<at::Tensor> outputs, std::vector<at::Tensor> keep,
              std::chrono::milliseconds timeout, bool timed);
  ~WorkPapilio() override;

  // Called once, right after submission, by the issuing thread.
  void issued(std::shared_ptr<engine::Group> group, Seq seq);
  // For Group::submit(): hands a completion to this work. Holds a reference until it ran.
  engine::DoneFn completer(std::shared_ptr<CallbackThread> callbacks);

  bool isCompleted() override;
  bool isSuccess() const override;
  std::exception_ptr exception() const override;
  std::vector<at::Tensor> result() override { return outputs_; }
  // kNoTimeout: the collective's own timeout. After an explicit timeout the collective is ended
  // with DeadlineExceeded and that is thrown.
  bool wait(std::chrono::milliseconds timeout = kNoTimeout) override;
  // Group rank that a received message came from.
  int sourceRank() const override;
  void synchronize() override;
  void abort() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFutureResult() override { return result_future_; }
  float getDuration() const override;
  std::uint64_t getSequencenumber() const override { return seq_.value & ~engine::kMessageNumbers; }
  std::chrono::milliseconds getTimeout() const override { return timeout_; }

  // Report of the finished collective; nullopt while it runs.
  std::optional<fault::Report> report() const;

 private:
  void complete(const engine::Completion& completion);  // progress thread
  void publish();                                       // callback thread
  void cancelAndWait(const std::string& why);

  const ErrorContext context_;
  const std::vector<at::Tensor> outputs_;
  std::vector<at::Tensor> keep_;
  const std::chrono::milliseconds timeout_;
  const bool timed_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
  c10::intrusive_ptr<c10::ivalue::Future> result_future_;
  std::shared_ptr<engine::Group> group_;
  Seq seq_;
  std::optional<engine::Completion> completion_;  // guarded by mutex_
};

}  // namespace papilio::pg
