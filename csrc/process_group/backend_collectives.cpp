// The collectives: arguments checked, then one request each.
#include "core/hash.hpp"
#include "process_group/backend.hpp"
#include "process_group/tensors.hpp"

namespace papilio::pg {

namespace {
constexpr std::uint64_t kLeastTolerant = 16;  // elements, protocol.md G2
}  // namespace

RoundShape BackendPapilio::shapeFor(OpKind kind, const at::Tensor& tensor) const {
  RoundShape shape;
  shape.kind = kind;
  shape.dtype = dtypeOf(tensor);
  shape.numel = static_cast<std::uint64_t>(tensor.numel());
  return shape;
}

// README decision 8: what is tiny is a count, a flag or a metric, whose value is the point; it is
// never partial and never rescaled, unless the caller says so.
bool BackendPapilio::tolerant(const RoundShape& shape) const {
  const bool possible =
      isFloating(shape.dtype) &&
      (shape.op == ReduceOp::sum || shape.op == ReduceOp::avg || shape.op == ReduceOp::premul_sum);
  if (!possible || shape.numel == 0 || !bounded()) return false;
  return modeOverride() == ModeOverride::tolerant || shape.numel >= kLeastTolerant;
}

bool BackendPapilio::bounded() const {
  switch (modeOverride()) {
    case ModeOverride::strict: return false;
    case ModeOverride::tolerant: return true;
    case ModeOverride::none: break;
  }
  return settings_.group.mode == fault::Mode::bounded;
}

BackendPapilio::WorkPtr BackendPapilio::allreduce(Tensors& tensors,
                                                  const c10d::AllreduceOptions& opts) {
  const at::Tensor& tensor = single(tensors, "all_reduce");
  if (tensor.defined() && tensor.layout() == at::kSparse) return allreduce_sparse(tensors, opts);
  requireUsable(tensor, "all_reduce");
  RoundShape shape = shapeFor(OpKind::allreduce, tensor);
  const auto operation = operationOf(opts.reduceOp, shape.dtype);
  shape.op = operation.op;
  shape.premul = operation.premul;
  Issue issue{"all_reduce", c10d::OpType::ALLREDUCE, opts, tensors, tensors, {}};
  if (tolerant(shape) && !settings_.fingerprint.empty()) {
    shape.fingerprint = hashBytes(settings_.fingerprint) | 1;
  }
  issue.by_reference = laneIssue(tensor, shape);
  if (issue.by_reference) {
    issue.staged.leaveOnDevice(tensor);
    return submit(std::move(issue), engine::AllreduceRequest{});
  }
  const at::Tensor host = issue.staged.inOut(tensor);
  if (!tolerant(shape)) {
    return submit(std::move(issue), [shape, buffer = bufferOf(host)](Ring ring) {
      return strictAllreduce(ring, shape, buffer);
    });
  }
  issue.sum = sumIssue(issue.staged, shape);
  return submit(std::move(issue), engine::AllreduceRequest{host.data_ptr(), shape});
}

BackendPapilio::WorkPtr BackendPapilio::broadcast(Tensors& tensors,
                                                  const c10d::BroadcastOptions& opts) {
  const at::Tensor& tensor = single(tensors, "broadcast");
  requireUsable(tensor, "broadcast");
  RoundShape shape = shapeFor(OpKind::broadcast, tensor);
  shape.root = static_cast<std::uint32_t>(requireRoot(opts.rootRank, size_, "broadcast"));
  Issue issue{"broadcast", c10d::OpType::BROADCAST, opts, tensors, tensors, {}};
  const Buffer buffer = bufferOf(issue.staged.inOut(tensor));
  const bool outlives_root = bounded();
  return submit(std::move(issue), [=](Ring ring) {
    return outlives_root ? tolerantBroadcast(ring, shape, buffer)
                         : strictBroadcast(ring, shape, buffer);
  });
}

BackendPapilio::WorkPtr BackendPapilio::allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                                                  const c10d::AllgatherOptions& opts) {
  const at::Tensor& input = single(inputs, "all_gather");
  requireUsable(input, "all_gather input");
  TORCH_CHECK_VALUE(outputs.size() == 1, "papilio: all_gather takes one output list, got ",
                    outputs.size());
  requireList(outputs[0], static_cast<std::size_t>(size_), input, input.numel(),
              "all_gather output");
  Issue issue{"all_gather", c10d::OpType::ALLGATHER,    opts,
              outputs[0],   joined(outputs[0], inputs), {}};
  const RoundShape shape = shapeFor(OpKind::allgather, input);
  const Buffer mine = bufferOf(issue.staged.in(input));
  const auto all = buffersOf(issue.staged.out(outputs[0]));
  return submit(std::move(issue),
                [=](Ring ring) { return strictAllgather(ring, shape, mine, all); });
}

BackendPapilio::WorkPtr BackendPapilio::_allgather_base(at::Tensor& output, at::Tensor& input,
                                                        const c10d::AllgatherOptions& opts) {
  requireWhole(output, input, size_, "all_gather");
  Issue issue{"all_gather", c10d::OpType::_ALLGATHER_BASE, opts, {output}, {output, input}, {}};
  const RoundShape shape = shapeFor(OpKind::allgather, input);
  const Buffer mine = bufferOf(issue.staged.in(input));
  const auto all = partsOf(issue.staged.out(output), size_);
  return submit(std::move(issue),
                [=](Ring ring) { return strictAllgather(ring, shape, mine, all); });
}

BackendPapilio::WorkPtr BackendPapilio::gather(std::vector<Tensors>& outputs, Tensors& inputs,
                                               const c10d::GatherOptions& opts) {
  const at::Tensor& input = single(inputs, "gather");
  requireUsable(input, "gather input");
  RoundShape shape = shapeFor(OpKind::gather, input);
  shape.root = static_cast<std::uint32_t>(requireRoot(opts.rootRank, size_, "gather"));
  Tensors list;
  if (rank_ == static_cast<int>(shape.root)) {
    TORCH_CHECK_VALUE(outputs.size() == 1, "papilio: gather needs one output list at the root");
    list = outputs[0];
    requireList(list, static_cast<std::size_t>(size_), input, input.numel(), "gather output");
  } else {
    TORCH_CHECK_VALUE(outputs.empty(), "papilio: gather takes outputs at the root only");
  }
  Issue issue{"gather", c10d::OpType::GATHER, opts, list, joined(list, inputs), {}};
  const Buffer mine = bufferOf(issue.staged.in(input));
  const auto all = buffersOf(issue.staged.out(list));
  return submit(std::move(issue), [=](Ring ring) { return strictGather(ring, shape, mine, all); });
}

BackendPapilio::WorkPtr BackendPapilio::gather_into_tensor(at::Tensor& output, at::Tensor& input,
                                                           const c10d::GatherOptions& opts) {
  requireUsable(input, "gather input");
  RoundShape shape = shapeFor(OpKind::gather, input);
  shape.root = static_cast<std::uint32_t>(requireRoot(opts.rootRank, size_, "gather"));
  const bool root = rank_ == static_cast<int>(shape.root);
  if (root) requireWhole(output, input, size_, "gather");
  const Tensors outputs = root ? Tensors{output} : Tensors{};
  Issue issue{"gather", c10d::OpType::GATHER, opts, outputs, joined(outputs, {input}), {}};
  const Buffer mine = bufferOf(issue.staged.in(input));
  const auto all = root ? partsOf(issue.staged.out(output), size_) : std::vector<Buffer>{};
  return submit(std::move(issue), [=](Ring ring) { return strictGather(ring, shape, mine, all); });
}

BackendPapilio::WorkPtr BackendPapilio::scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                                const c10d::ScatterOptions& opts) {
  const at::Tensor& output = single(outputs, "scatter");
  requireUsable(output, "scatter output");
  RoundShape shape = shapeFor(OpKind::scatter, output);
  shape.root = static_cast<std::uint32_t>(requireRoot(opts.rootRank, size_, "scatter"));
  Tensors list;
  if (rank_ == static_cast<int>(shape.root)) {
    TORCH_CHECK_VALUE(inputs.size() == 1, "papilio: scatter needs one input list at the root");
    list = inputs[0];
    requireList(list, static_cast<std::size_t>(size_), output, output.numel(), "scatter input");
  } else {
    TORCH_CHECK_VALUE(inputs.empty(), "papilio: scatter takes inputs at the root only");
  }
  Issue issue{"scatter", c10d::OpType::SCATTER, opts, outputs, joined(list, outputs), {}};
  const Buffer mine = bufferOf(issue.staged.out(output));
  const auto all = buffersOf(issue.staged.in(list));
  return submit(std::move(issue), [=](Ring ring) { return strictScatter(ring, shape, mine, all); });
}

BackendPapilio::WorkPtr BackendPapilio::reduce(Tensors& tensors, const c10d::ReduceOptions& opts) {
  const at::Tensor& tensor = single(tensors, "reduce");
  requireUsable(tensor, "reduce");
  RoundShape shape = shapeFor(OpKind::reduce, tensor);
  shape.root = static_cast<std::uint32_t>(requireRoot(opts.rootRank, size_, "reduce"));
  const auto operation = operationOf(opts.reduceOp, shape.dtype);
  shape.op = operation.op;
  shape.premul = operation.premul;
  Issue issue{"reduce", c10d::OpType::REDUCE, opts, tensors, tensors, {}};
  const bool root = rank_ == static_cast<int>(shape.root);  // elsewhere the tensor does not change
  const Buffer buffer = bufferOf(root ? issue.staged.inOut(tensor) : issue.staged.in(tensor));
  return submit(std::move(issue), [=](Ring ring) { return strictReduce(ring, shape, buffer); });
}

BackendPapilio::WorkPtr BackendPapilio::reduceScatter(Issue issue, const at::Tensor& output,
                                                      const std::vector<Buffer>& inputs,
                                                      const c10d::ReduceOp& op) {
  RoundShape shape = shapeFor(OpKind::reduce_scatter, output);
  const auto operation = operationOf(op, shape.dtype);
  shape.op = operation.op;
  shape.premul = operation.premul;
  const Buffer mine = bufferOf(issue.staged.out(output));
  return submit(std::move(issue),
                [=](Ring ring) { return strictReduceScatter(ring, shape, mine, inputs); });
}

BackendPapilio::WorkPtr BackendPapilio::reduce_scatter(Tensors& outputs,
                                                       std::vector<Tensors>& inputs,
                                                       const c10d::ReduceScatterOptions& opts) {
  const at::Tensor& output = single(outputs, "reduce_scatter");
  requireUsable(output, "reduce_scatter output");
  TORCH_CHECK_VALUE(inputs.size() == 1, "papilio: reduce_scatter takes one input list, got ",
                    inputs.size());
  requireList(inputs[0], static_cast<std::size_t>(size_), output, output.numel(),
              "reduce_scatter input");
  Issue issue{"reduce_scatter", c10d::OpType::REDUCE_SCATTER, opts,
              outputs,          joined(inputs[0], outputs),   {}};
  const auto theirs = buffersOf(issue.staged.in(inputs[0]));
  return reduceScatter(std::move(issue), output, theirs, opts.reduceOp);
}

BackendPapilio::WorkPtr BackendPapilio::_reduce_scatter_base(
    at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& opts) {
  requireWhole(input, output, size_, "reduce_scatter");
  Issue issue{
      "reduce_scatter", c10d::OpType::_REDUCE_SCATTER_BASE, opts, {output}, {output, input}, {}};
  const auto theirs = partsOf(issue.staged.in(input), size_);
  return reduceScatter(std::move(issue), output, theirs, opts.reduceOp);
}

BackendPapilio::WorkPtr BackendPapilio::alltoall(Tensors& outputs, Tensors& inputs,
                                                 const c10d::AllToAllOptions& opts) {
  TORCH_CHECK_VALUE(outputs.size() == static_cast<std::size_t>(size_) &&
                        inputs.size() == static_cast<std::size_t>(size_),
                    "papilio: all_to_all needs ", size_, " inputs and outputs, got ", inputs.size(),
                    " and ", outputs.size());
  for (const auto& tensor : joined(outputs, inputs)) {
    requireUsable(tensor, "all_to_all");
    TORCH_CHECK_TYPE(tensor.scalar_type() == inputs[0].scalar_type(),
                     "papilio: all_to_all tensors of different dtypes");
  }
  RoundShape shape = shapeFor(OpKind::alltoall, inputs[0]);
  shape.numel = 0;  // may differ between pairs; each block's size is checked on arrival
  Issue issue{"all_to_all", c10d::OpType::ALLTOALL, opts, outputs, joined(outputs, inputs), {}};
  const auto to = buffersOf(issue.staged.out(outputs));
  const auto from = buffersOf(issue.staged.in(inputs));
  return submit(std::move(issue), [=](Ring ring) { return strictAlltoall(ring, shape, to, from); });
}

BackendPapilio::WorkPtr BackendPapilio::alltoall_base(at::Tensor& output, at::Tensor& input,
                                                      std::vector<int64_t>& out_splits,
                                                      std::vector<int64_t>& in_splits,
                                                      const c10d::AllToAllOptions& opts) {
  requireUsable(output, "all_to_all_single output");
  requireUsable(input, "all_to_all_single input");
  TORCH_CHECK_TYPE(output.scalar_type() == input.scalar_type(),
                   "papilio: all_to_all_single output dtype ", output.scalar_type(),
                   " differs from input dtype ", input.scalar_type());
  RoundShape shape = shapeFor(OpKind::alltoall, input);
  shape.numel = 0;
  Issue issue{"all_to_all", c10d::OpType::ALLTOALL_BASE, opts, {output}, {output, input}, {}};
  const auto to = splitRows(issue.staged.out(output), out_splits, size_, "output");
  const auto from = splitRows(issue.staged.in(input), in_splits, size_, "input");
  return submit(std::move(issue), [=](Ring ring) { return strictAlltoall(ring, shape, to, from); });
}

BackendPapilio::WorkPtr BackendPapilio::barrier(const c10d::BarrierOptions& opts) {
  Issue issue{"barrier", c10d::OpType::BARRIER, opts, {}, {}, {}};
  if (opts.device && canHoldStreams(opts.device->type())) issue.staged.follow(*opts.device);
  return submit(std::move(issue), &strictBarrier);
}

}  // namespace papilio::pg
