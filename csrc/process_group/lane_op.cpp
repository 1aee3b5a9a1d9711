#include "process_group/lane_op.hpp"

#include <c10/core/StreamGuard.h>
#include <c10/util/Exception.h>

namespace papilio::pg {

namespace {

using State = device::Round::State;

// With which factor a sum of weight `over` becomes the result (engine: factorFor()).
device::Round::Factor factorFor(const LaneIssue& issue, double over) {
  if (issue.shape.op == ReduceOp::avg) return {1.0, over};
  return {static_cast<double>(issue.size) * issue.shape.premul, over};
}

std::byte* dataOf(const at::Tensor& tensor) { return static_cast<std::byte*>(tensor.data_ptr()); }

}  // namespace

LaneOp::LaneOp(LaneIssue issue, c10::Stream stream)
    : issue_(std::move(issue)),
      stream_(stream),
      round_(issue_.lane, {issue_.shape.dtype, issue_.shape.numel}, dataOf(issue_.tensor),
             stream.native_handle()) {}

engine::AllreduceRequest LaneOp::request() {
  table_ = round_.table();
  engine::AllreduceRequest out;
  out.data = table_.data();
  out.shape = issue_.shape;
  out.by_reference = true;
  return out;
}

engine::DoneFn LaneOp::completer(std::shared_ptr<engine::Group> group, engine::DoneFn done,
                                 std::function<void()> wake) {
  return [this, group = std::move(group), done = std::move(done),
          wake = std::move(wake)](const engine::Completion& completion) {
    {
      std::lock_guard lock(mutex_);
      if (!over_) outcome_ = Outcome{completion, done, group};
    }
    if (over()) return done(completion);
    wake();
  };
}

bool LaneOp::advance() {
  {
    std::lock_guard lock(mutex_);
    if (over_ || !outcome_) return false;
  }
  const c10::StreamGuard guard(stream_);
  try {
    if (!begun_) {
      begin();
      return true;
    }
    const auto state = round_.poll();
    if (state == State::running) return false;
    finish(state);
  } catch (const std::exception& error) {
    fail(error.what());
  }
  return true;
}

void LaneOp::begin() {
  begun_ = true;
  const auto& completion = outcome_->completion;
  if (completion.error) {
    round_.failed(completion.seq);
    return tell();
  }
  device::Round::Decision decision;
  decision.seq = completion.seq;
  // One chunk: there is one answer for all of it.
  const auto& chunk = completion.report.chunks.at(0);
  if (chunk.source != fault::Source::local) {
    decision.contributors = chunk.contributors;
    decision.rows = table_;
    decision.factor = factorFor(issue_, chunk.weight);
  }
  auto own = factorFor(issue_, 1.0);
  if (issue_.zero) own.times = 0.0;
  round_.begin(decision, own, dataOf(issue_.tensor), stream_.native_handle());
}

void LaneOp::finish(State state) {
  auto& report = outcome_->completion.report;
  if (state == State::own && report.outcome != fault::Outcome::local) {
    TORCH_WARN("papilio: rank ", issue_.me.value, ", collective ", report.seq.value,
               ": the own gradient is used: ", round_.why());
    report.outcome = fault::Outcome::local;
    for (auto& chunk : report.chunks) {
      chunk.source = fault::Source::local;
      chunk.contributors = {};
      chunk.contributors.insert(issue_.me);
      chunk.weight = static_cast<double>(issue_.lane->config().weight);
    }
  }
  tell();
}

void LaneOp::fail(const std::string& why) {
  auto& error = outcome_->completion.error;
  round_.failed(outcome_->completion.seq);
  error.kind = fault::ErrorKind::aborted;
  error.text = "the average could not be made on " + issue_.tensor.device().str() + ": " + why +
               ". The tensor may hold parts of it";
  tell();
}

// The engine knows only when the references had been exchanged.
void LaneOp::tell() {
  Outcome outcome;
  {
    std::lock_guard lock(mutex_);
    over_ = true;
    outcome = std::move(*outcome_);
  }
  outcome.group->correct(outcome.completion.report);
  outcome.done(outcome.completion);
}

bool LaneOp::over() const {
  std::lock_guard lock(mutex_);
  return over_;
}

void LaneOp::giveUp() {
  {
    std::lock_guard lock(mutex_);
    if (over_) return;
    if (!outcome_) {  // the engine's answer will be the end
      over_ = true;
      return;
    }
  }
  fail("the group has ended, and the device has not done what came before");
}

}  // namespace papilio::pg
