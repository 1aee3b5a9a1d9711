#include "process_group/work_together.hpp"

#include <ATen/core/ivalue_inl.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <algorithm>

namespace papilio::pg {

namespace {

using FuturePtr = c10::intrusive_ptr<c10::ivalue::Future>;

FuturePtr allOf(const std::vector<FuturePtr>& futures, const c10::TypePtr& type) {
  c10::List<FuturePtr> list(c10::FutureType::create(type));
  for (const auto& future : futures) list.push_back(future);
  return c10::collectAll(list);
}

FuturePtr outputsAfter(const std::vector<WorkTogether::Part>& parts,
                       const std::vector<at::Tensor>& outputs) {
  const auto type = c10::ListType::create(c10::TensorType::get());
  std::vector<FuturePtr> futures;
  for (const auto& part : parts) futures.push_back(part->getFuture());
  return allOf(futures, type)
      ->then(
          [futures, outputs](c10::ivalue::Future&) {
            for (const auto& future : futures) {
              if (future->hasError()) std::rethrow_exception(future->exception_ptr());
            }
            return c10::IValue(outputs);
          },
          type);
}

FuturePtr resultAfter(const std::vector<WorkTogether::Part>& parts) {
  std::vector<FuturePtr> futures;
  for (const auto& part : parts) futures.push_back(part->getFutureResult());
  return allOf(futures, c10::IntType::get())
      ->then(
          [futures](c10::ivalue::Future&) {
            const auto success = static_cast<std::int64_t>(c10d::WorkResult::SUCCESS);
            for (const auto& future : futures) {
              if (future->value().toInt() != success) return future->value();
            }
            return c10::IValue(success);
          },
          c10::IntType::get());
}

}  // namespace

WorkTogether::WorkTogether(int rank, c10d::OpType type, std::vector<Part> parts,
                           std::vector<at::Tensor> outputs,
                           const std::shared_ptr<WorkLedger>& ledger)
    : Work(rank, type),
      parts_(std::move(parts)),
      outputs_(std::move(outputs)),
      future_(outputsAfter(parts_, outputs_)),
      result_future_(resultAfter(parts_)) {
  const auto begun = WorkLedger::Clock::now();
  future_->addCallback([ledger, begun, key = key_](c10::ivalue::Future& future) {
    if (!future.hasError()) ledger->completed(key, WorkLedger::Clock::now() - begun);
  });
}

bool WorkTogether::isCompleted() {
  return std::all_of(parts_.begin(), parts_.end(), [](auto& part) { return part->isCompleted(); });
}

bool WorkTogether::isSuccess() const {
  return std::all_of(parts_.begin(), parts_.end(), [](auto& part) { return part->isSuccess(); });
}

std::exception_ptr WorkTogether::exception() const {
  for (const auto& part : parts_) {
    if (auto error = part->exception()) return error;
  }
  return nullptr;
}

bool WorkTogether::wait(std::chrono::milliseconds timeout) {
  using Clock = std::chrono::steady_clock;
  const bool own = timeout == kNoTimeout;
  const auto begun = Clock::now();
  std::exception_ptr first;
  for (const auto& part : parts_) {
    auto limit = timeout;
    if (!own) {
      const auto spent =
          std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun);
      limit = std::max(timeout - spent, std::chrono::milliseconds(1));
    }
    try {
      part->wait(limit);
    } catch (...) {
      if (!first) first = std::current_exception();
    }
  }
  synchronize();
  if (first) std::rethrow_exception(first);
  return true;
}

void WorkTogether::synchronize() {
  if (c10d::allow_inflight_collective_as_graph_input()) {
    c10d::unregister_work(c10::intrusive_ptr<WorkTogether>::unsafe_reclaim_from_nonowning(this));
  }
}

void WorkTogether::abort() {
  for (const auto& part : parts_) part->abort();
}

float WorkTogether::getDuration() const {
  float longest = 0;
  for (const auto& part : parts_) longest = std::max(longest, part->getDuration());
  return longest;
}

std::uint64_t WorkTogether::getSequencenumber() const {
  return parts_.empty() ? 0 : parts_.back()->getSequencenumber();
}

}  // namespace papilio::pg
