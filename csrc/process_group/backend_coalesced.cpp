// Several collectives at once: coalesced calls and coalescing blocks.
#include "process_group/backend.hpp"
#include "process_group/tensors.hpp"
#include "process_group/work_together.hpp"

namespace papilio::pg {

namespace {

// What OneNumber needs: of which backend, and the number once it was taken.
thread_local const BackendPapilio* numbering = nullptr;
thread_local std::uint64_t taken_number = 0;

// Beyond as many, a block forgets what has succeeded already.
constexpr std::size_t kMostInBlock = 4096;

void requirePairs(std::size_t outputs, std::size_t inputs, const char* what) {
  TORCH_CHECK_VALUE(outputs == inputs && inputs > 0, "papilio: ", what,
                    " needs as many outputs as inputs, at least one; got ", outputs, " and ",
                    inputs);
}

}  // namespace

BackendPapilio::OneNumber::OneNumber(const BackendPapilio& backend) {
  numbering = &backend;
  taken_number = 0;
}

BackendPapilio::OneNumber::~OneNumber() { numbering = nullptr; }

std::uint64_t BackendPapilio::takeNumber() {
  if (numbering != this) return takeNumberInBlock();
  if (taken_number == 0) taken_number = takeNumberInBlock();
  return taken_number;
}

std::uint64_t BackendPapilio::takeNumberInBlock() {
  std::lock_guard lock(blocks_mutex_);
  const auto block = blocks_.find(std::this_thread::get_id());
  if (block == blocks_.end()) return ++last_number_;
  if (block->second.number == 0) block->second.number = ++last_number_;
  return block->second.number;
}

// Everything is checked before the first one is issued: a call that throws has sent nothing.

BackendPapilio::WorkPtr BackendPapilio::allreduce_coalesced(
    Tensors& tensors, const c10d::AllreduceCoalescedOptions& opts) {
  TORCH_CHECK_VALUE(!tensors.empty(), "papilio: all_reduce_coalesced needs at least one tensor");
  for (const auto& tensor : tensors) {
    requireUsable(tensor, "all_reduce_coalesced");
    operationOf(opts.reduceOp, dtypeOf(tensor));
  }
  const OneNumber one_number(*this);
  std::vector<WorkPtr> parts;
  for (const auto& tensor : tensors) {
    Tensors one{tensor};
    parts.push_back(allreduce(one, opts));
  }
  return c10::make_intrusive<WorkTogether>(rank_, c10d::OpType::ALLREDUCE_COALESCED,
                                           std::move(parts), tensors, ledger_);
}

BackendPapilio::WorkPtr BackendPapilio::allgather_coalesced(std::vector<Tensors>& outputs,
                                                            Tensors& inputs,
                                                            const c10d::AllgatherOptions& opts) {
  TORCH_CHECK_VALUE(outputs.size() == static_cast<std::size_t>(size_) && !inputs.empty(),
                    "papilio: all_gather_coalesced needs inputs and one output list per rank, got ",
                    inputs.size(), " inputs and ", outputs.size(), " lists for ", size_, " ranks");
  Tensors all;
  for (const auto& list : outputs) {
    requirePairs(list.size(), inputs.size(), "all_gather_coalesced");
    all = joined(std::move(all), list);
  }
  std::vector<std::vector<Tensors>> by_input;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    requireUsable(inputs[i], "all_gather_coalesced input");
    by_input.push_back({Tensors()});
    for (const auto& list : outputs) by_input[i][0].push_back(list[i]);
    requireList(by_input[i][0], outputs.size(), inputs[i], inputs[i].numel(),
                "all_gather_coalesced output");
  }
  const OneNumber one_number(*this);
  std::vector<WorkPtr> parts;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    Tensors one{inputs[i]};
    parts.push_back(allgather(by_input[i], one, opts));
  }
  return c10::make_intrusive<WorkTogether>(rank_, c10d::OpType::ALLGATHER_COALESCED,
                                           std::move(parts), std::move(all), ledger_);
}

BackendPapilio::WorkPtr BackendPapilio::allgather_into_tensor_coalesced(
    Tensors& outputs, Tensors& inputs, const c10d::AllgatherOptions& opts) {
  requirePairs(outputs.size(), inputs.size(), "all_gather_single_coalesced");
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    requireWhole(outputs[i], inputs[i], size_, "all_gather_single_coalesced");
  }
  const OneNumber one_number(*this);
  std::vector<WorkPtr> parts;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    parts.push_back(_allgather_base(outputs[i], inputs[i], opts));
  }
  return c10::make_intrusive<WorkTogether>(rank_, c10d::OpType::COALESCED, std::move(parts),
                                           outputs, ledger_);
}

BackendPapilio::WorkPtr BackendPapilio::reduce_scatter_tensor_coalesced(
    Tensors& outputs, Tensors& inputs, const c10d::ReduceScatterOptions& opts) {
  requirePairs(outputs.size(), inputs.size(), "reduce_scatter_single_coalesced");
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    requireWhole(inputs[i], outputs[i], size_, "reduce_scatter_single_coalesced");
    operationOf(opts.reduceOp, dtypeOf(inputs[i]));
  }
  const OneNumber one_number(*this);
  std::vector<WorkPtr> parts;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    parts.push_back(_reduce_scatter_base(outputs[i], inputs[i], opts));
  }
  return c10::make_intrusive<WorkTogether>(rank_, c10d::OpType::COALESCED, std::move(parts),
                                           outputs, ledger_);
}

void BackendPapilio::startCoalescing() {
  std::lock_guard lock(blocks_mutex_);
  blocks_[std::this_thread::get_id()] = {};
}

void BackendPapilio::addToBlock(const WorkPtr& work) {
  std::lock_guard lock(blocks_mutex_);
  const auto block = blocks_.find(std::this_thread::get_id());
  if (block == blocks_.end()) return;
  auto& parts = block->second.works;
  parts.push_back(work);
  // A block that nobody ends must not hold on to everything.
  if (parts.size() % kMostInBlock == 0) {
    std::erase_if(parts, [](const WorkPtr& part) { return part->isSuccess(); });
  }
}

BackendPapilio::WorkPtr BackendPapilio::endCoalescing() {
  std::vector<WorkPtr> parts;
  {
    std::lock_guard lock(blocks_mutex_);
    const auto block = blocks_.find(std::this_thread::get_id());
    TORCH_CHECK_VALUE(block != blocks_.end(),
                      "papilio: endCoalescing() without startCoalescing() in this thread");
    parts = std::move(block->second.works);
    blocks_.erase(block);
  }
  Tensors outputs;
  for (const auto& part : parts) outputs = joined(std::move(outputs), part->result());
  return c10::make_intrusive<WorkTogether>(rank_, c10d::OpType::COALESCED, std::move(parts),
                                           std::move(outputs), ledger_);
}

}  // namespace papilio::pg
