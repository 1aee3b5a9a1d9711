#include "process_group/backend.hpp"

#include "core/hash.hpp"
#include "process_group/convert.hpp"
#include "process_group/rendezvous.hpp"

#include <torch/csrc/utils/pybind.h>
#include <unistd.h>

#include <algorithm>
#include <set>

namespace papilio::pg {

namespace {

constexpr std::uint64_t kLeastTolerant = 16;  // elements, protocol.md G2
// Longer timeouts mean "never"; the sum with a point in time must not overflow.
constexpr std::chrono::milliseconds kLongest = std::chrono::hours(24 * 365);
constexpr std::chrono::milliseconds kShortest{1};

std::chrono::milliseconds sane(std::chrono::milliseconds timeout) {
  return std::clamp(timeout, kShortest, kLongest);
}

// Groups that live, for the interpreter's exit: nothing in Python keeps the backends' objects.
std::mutex living_mutex;
std::set<BackendPapilio*> living;

// The callback thread may need the interpreter lock to finish what we wait for.
std::unique_ptr<pybind11::gil_scoped_release> releaseInterpreter() {
  if (Py_IsInitialized() == 0 || PyGILState_Check() == 0) return nullptr;
  return std::make_unique<pybind11::gil_scoped_release>();
}

}  // namespace

ModeOverride& modeOverride() {
  thread_local ModeOverride value = ModeOverride::none;
  return value;
}

BackendPapilio::BackendPapilio(c10::intrusive_ptr<c10d::Store> store, int rank, int size,
                               std::string name, Settings settings,
                               std::chrono::milliseconds timeout, EventHandler on_event)
    : Backend(rank, size),
      name_(std::move(name)),
      settings_(std::move(settings)),
      timeout_(sane(timeout)),
      pid_(getpid()) {
  timeout = sane(timeout);
  process_ = Process::acquire(settings_.transport, [&] {
    return ProcessSettings{settings_.interface, jobSecret(*store), settings_.log_level,
                           settings_.transport};
  });
  const auto met = meet(*store, rank, size, process_->engine().localRecord(),
                        process_->nextGroupNumber(), timeout);
  engine::GroupConfig config;
  config.name = name_;
  config.id = met.id;
  config.rank = Rank{static_cast<std::uint32_t>(rank)};
  config.size = static_cast<std::uint32_t>(size);
  config.records = met.records;
  config.options = settings_.group;
  config.options.timeout = timeout;
  if (!settings_.fingerprint.empty()) {
    config.options.fingerprint = hashBytes(settings_.fingerprint) | 1;
  }
  config.report_history = settings_.report_history;
  if (on_event) {
    // The handler needs the interpreter lock: never on the progress thread.
    config.on_event = [callbacks = &process_->callbacks(), handler = std::move(on_event),
                       group = name_](const fault::Event& event) {
      callbacks->post([=] { handler(group, event); });
    };
  }
  group_ = process_->engine().createGroup(std::move(config));
  const auto missing = group_->waitReady(timeout);
  if (missing.empty()) {
    std::lock_guard lock(living_mutex);
    living.insert(this);
    return;
  }
  std::string text;
  for (const auto& [peer, why] : missing) {
    text += (text.empty() ? "rank " : ", rank ") + std::to_string(peer.value) + " (" + why + ", " +
            met.records[peer.value] + ")";
  }
  group_->leave();
  C10_THROW_ERROR(DistBackendError, "papilio[rank " + std::to_string(rank) + "/" +
                                        std::to_string(size) + " " + name_ +
                                        "] could not connect within " +
                                        std::to_string(timeout.count() / 1000) + " s: " + text +
                                        "; is the address reachable from this host?");
}

BackendPapilio::~BackendPapilio() {
  const auto unlocked = releaseInterpreter();
  {
    std::lock_guard lock(living_mutex);
    living.erase(this);
  }
  shutdown();
}

c10::intrusive_ptr<c10d::Backend::Options> BackendPapilio::getBackendOptions() {
  return c10::make_intrusive<Options>("papilio", timeout_.load());
}

void BackendPapilio::setTimeout(std::chrono::milliseconds timeout) { timeout_ = sane(timeout); }

void BackendPapilio::abort() {
  if (pid_ != getpid()) return;
  error_ = c10d::ErrorType::COMM_ERROR;
  group_->abort("abort() was called");
}

void BackendPapilio::shutdownAll() {
  std::lock_guard lock(living_mutex);
  for (BackendPapilio* backend : living) backend->shutdown();
}

// The threads and connections belong to the parent: here they can be neither used nor ended.
void BackendPapilio::forgetParent() {
  new std::shared_ptr<engine::Group>(std::move(group_));
  new std::shared_ptr<Process>(std::move(process_));
}

void BackendPapilio::shutdown() {
  const auto unlocked = releaseInterpreter();
  if (pid_ != getpid()) return forgetParent();
  std::lock_guard lock(shutdown_mutex_);
  if (group_) group_->leave();
  process_.reset();  // the last group of the process also ends the engine
}

void BackendPapilio::requireOwnProcess(const char* what) const {
  TORCH_CHECK_WITH(DistBackendError, pid_ == getpid(), "papilio: ", what,
                   " in a process that was forked from the one that created the group; create a "
                   "group of its own here");
}

engine::Group& BackendPapilio::group() {
  requireOwnProcess("a question to the group");
  return *group_;
}

engine::StatsMap BackendPapilio::engineStats() {
  requireOwnProcess("a question to the group");
  std::lock_guard lock(shutdown_mutex_);
  return process_ ? process_->engine().stats() : engine::StatsMap{};
}

std::chrono::milliseconds BackendPapilio::effective(std::chrono::milliseconds timeout) const {
  const bool unset = timeout == c10d::kUnsetTimeout || timeout == kNoTimeout;
  return unset ? timeout_.load() : sane(timeout);
}

template <class Request>
BackendPapilio::WorkPtr BackendPapilio::submit(Issue issue, Request request) {
  requireOwnProcess(issue.op);
  const auto timeout = effective(issue.timeout);
  ErrorContext context{name_, Rank{static_cast<std::uint32_t>(rank_)},
                       static_cast<std::uint32_t>(size_), issue.op};
  const std::string title = std::string("papilio:") + issue.op;
  auto work = c10::make_intrusive<WorkPapilio>(std::move(context), issue.type, title.c_str(),
                                               std::move(issue.outputs), std::move(issue.keep),
                                               timeout, timing_.load());
  std::shared_ptr<CallbackThread> callbacks;
  {
    std::lock_guard lock(shutdown_mutex_);
    if (process_) callbacks = process_->sharedCallbacks();
  }
  TORCH_CHECK_WITH(DistBackendError, callbacks != nullptr, "papilio: ", issue.op,
                   " on a group that was shut down");
  const Seq seq = group_->submit(std::move(request), timeout, work->completer(callbacks));
  if constexpr (!std::is_same_v<Request, engine::MessageRequest>) last_seq_ = seq.value;
  work->issued(group_, seq);
  return work;
}

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

namespace {
Buffer bufferOf(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.data_ptr()), static_cast<std::uint64_t>(tensor.nbytes())};
}

std::vector<Buffer> buffersOf(const std::vector<at::Tensor>& tensors) {
  std::vector<Buffer> out;
  for (const auto& tensor : tensors) out.push_back(bufferOf(tensor));
  return out;
}

// All usable, of the reference's dtype, each with `numel` elements.
void requireList(const std::vector<at::Tensor>& tensors, std::size_t count, const at::Tensor& like,
                 int64_t numel, const char* what) {
  TORCH_CHECK_VALUE(tensors.size() == count, "papilio: ", what, " needs ", count,
                    " tensors, one per rank, got ", tensors.size());
  for (const auto& tensor : tensors) {
    requireUsable(tensor, what);
    TORCH_CHECK_TYPE(tensor.scalar_type() == like.scalar_type(), "papilio: ", what, " dtype ",
                     tensor.scalar_type(), " differs from ", like.scalar_type());
    TORCH_CHECK_VALUE(tensor.numel() == numel, "papilio: ", what, " tensor has ", tensor.numel(),
                      " elements, expected ", numel);
  }
}

std::vector<at::Tensor> joined(std::vector<at::Tensor> a, const std::vector<at::Tensor>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
}  // namespace

BackendPapilio::WorkPtr BackendPapilio::allreduce(Tensors& tensors,
                                                  const c10d::AllreduceOptions& opts) {
  const at::Tensor& tensor = single(tensors, "all_reduce");
  requireUsable(tensor, "all_reduce");
  RoundShape shape = shapeFor(OpKind::allreduce, tensor);
  const auto operation = operationOf(opts.reduceOp, shape.dtype);
  shape.op = operation.op;
  shape.premul = operation.premul;
  Issue issue{"all_reduce", c10d::OpType::ALLREDUCE, opts.timeout, tensors, tensors};
  if (!tolerant(shape)) {
    return submit(std::move(issue), strictAllreduce(ring(), shape, bufferOf(tensor)));
  }
  if (!settings_.fingerprint.empty()) shape.fingerprint = hashBytes(settings_.fingerprint) | 1;
  return submit(std::move(issue), engine::AllreduceRequest{tensor.data_ptr(), shape});
}

BackendPapilio::WorkPtr BackendPapilio::broadcast(Tensors& tensors,
                                                  const c10d::BroadcastOptions& opts) {
  const at::Tensor& tensor = single(tensors, "broadcast");
  requireUsable(tensor, "broadcast");
  RoundShape shape = shapeFor(OpKind::broadcast, tensor);
  shape.root = static_cast<std::uint32_t>(requireRoot(opts.rootRank, size_, "broadcast"));
  const bool outlives_root = bounded();
  return submit(Issue{"broadcast", c10d::OpType::BROADCAST, opts.timeout, tensors, tensors},
                outlives_root ? tolerantBroadcast(ring(), shape, bufferOf(tensor))
                              : strictBroadcast(ring(), shape, bufferOf(tensor)));
}

BackendPapilio::WorkPtr BackendPapilio::allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                                                  const c10d::AllgatherOptions& opts) {
  const at::Tensor& input = single(inputs, "all_gather");
  requireUsable(input, "all_gather input");
  TORCH_CHECK_VALUE(outputs.size() == 1, "papilio: all_gather takes one output list, got ",
                    outputs.size());
  requireList(outputs[0], static_cast<std::size_t>(size_), input, input.numel(),
              "all_gather output");
  return submit(Issue{"all_gather", c10d::OpType::ALLGATHER, opts.timeout, outputs[0],
                      joined(outputs[0], inputs)},
                strictAllgather(ring(), shapeFor(OpKind::allgather, input), bufferOf(input),
                                buffersOf(outputs[0])));
}

BackendPapilio::WorkPtr BackendPapilio::_allgather_base(at::Tensor& output, at::Tensor& input,
                                                        const c10d::AllgatherOptions& opts) {
  requireUsable(input, "all_gather input");
  requireUsable(output, "all_gather output");
  TORCH_CHECK_TYPE(output.scalar_type() == input.scalar_type(), "papilio: all_gather output dtype ",
                   output.scalar_type(), " differs from input dtype ", input.scalar_type());
  TORCH_CHECK_VALUE(output.numel() == input.numel() * size_, "papilio: all_gather output has ",
                    output.numel(), " elements, expected ", input.numel(), " x ", size_);
  std::vector<Buffer> parts;
  const Buffer whole = bufferOf(output);
  const auto bytes = static_cast<std::uint64_t>(input.nbytes());
  for (int r = 0; r < size_; ++r) parts.push_back({whole.data + r * bytes, bytes});
  return submit(
      Issue{"all_gather", c10d::OpType::_ALLGATHER_BASE, opts.timeout, {output}, {output, input}},
      strictAllgather(ring(), shapeFor(OpKind::allgather, input), bufferOf(input), parts));
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
  return submit(Issue{"gather", c10d::OpType::GATHER, opts.timeout, list, joined(list, inputs)},
                strictGather(ring(), shape, bufferOf(input), buffersOf(list)));
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
  return submit(
      Issue{"scatter", c10d::OpType::SCATTER, opts.timeout, outputs, joined(list, outputs)},
      strictScatter(ring(), shape, bufferOf(output), buffersOf(list)));
}

BackendPapilio::WorkPtr BackendPapilio::reduce(Tensors& tensors, const c10d::ReduceOptions& opts) {
  const at::Tensor& tensor = single(tensors, "reduce");
  requireUsable(tensor, "reduce");
  RoundShape shape = shapeFor(OpKind::reduce, tensor);
  shape.root = static_cast<std::uint32_t>(requireRoot(opts.rootRank, size_, "reduce"));
  const auto operation = operationOf(opts.reduceOp, shape.dtype);
  shape.op = operation.op;
  shape.premul = operation.premul;
  return submit(Issue{"reduce", c10d::OpType::REDUCE, opts.timeout, tensors, tensors},
                strictReduce(ring(), shape, bufferOf(tensor)));
}

BackendPapilio::WorkPtr BackendPapilio::reduceScatter(Issue issue, const at::Tensor& output,
                                                      const Tensors& inputs,
                                                      const c10d::ReduceOp& op) {
  RoundShape shape = shapeFor(OpKind::reduce_scatter, output);
  const auto operation = operationOf(op, shape.dtype);
  shape.op = operation.op;
  shape.premul = operation.premul;
  return submit(std::move(issue),
                strictReduceScatter(ring(), shape, bufferOf(output), buffersOf(inputs)));
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
  return reduceScatter({"reduce_scatter", c10d::OpType::REDUCE_SCATTER, opts.timeout, outputs,
                        joined(inputs[0], outputs)},
                       output, inputs[0], opts.reduceOp);
}

BackendPapilio::WorkPtr BackendPapilio::_reduce_scatter_base(
    at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& opts) {
  requireUsable(output, "reduce_scatter output");
  requireUsable(input, "reduce_scatter input");
  TORCH_CHECK_TYPE(output.scalar_type() == input.scalar_type(),
                   "papilio: reduce_scatter output dtype ", output.scalar_type(),
                   " differs from input dtype ", input.scalar_type());
  TORCH_CHECK_VALUE(input.numel() == output.numel() * size_, "papilio: reduce_scatter input has ",
                    input.numel(), " elements, expected ", output.numel(), " x ", size_);
  return reduceScatter({"reduce_scatter",
                        c10d::OpType::_REDUCE_SCATTER_BASE,
                        opts.timeout,
                        {output},
                        {output, input}},
                       output, input.view(-1).chunk(size_), opts.reduceOp);
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
  return submit(
      Issue{"all_to_all", c10d::OpType::ALLTOALL, opts.timeout, outputs, joined(outputs, inputs)},
      strictAlltoall(ring(), shape, buffersOf(outputs), buffersOf(inputs)));
}

namespace {
std::vector<Buffer> splitRows(const at::Tensor& tensor, const std::vector<int64_t>& splits,
                              int size, const char* what) {
  const auto rows = tensor.dim() == 0 ? 0 : tensor.size(0);
  std::vector<int64_t> counts = splits;
  if (counts.empty()) {
    TORCH_CHECK_VALUE(rows % size == 0, "papilio: ", what, " has ", rows,
                      " rows, not divisible by ", size, " ranks; pass split sizes");
    counts.assign(static_cast<std::size_t>(size), rows / size);
  }
  int64_t total = 0;
  for (const auto count : counts) {
    TORCH_CHECK_VALUE(count >= 0, "papilio: ", what, " split sizes must not be negative");
    total += count;
  }
  TORCH_CHECK_VALUE(counts.size() == static_cast<std::size_t>(size) && total == rows,
                    "papilio: ", what, " splits ", splits, " must be ", size,
                    " numbers that sum to ", rows);
  const std::uint64_t row_bytes = rows == 0 ? 0 : tensor.nbytes() / static_cast<std::size_t>(rows);
  std::vector<Buffer> out;
  auto* at = static_cast<std::byte*>(tensor.data_ptr());
  for (const auto count : counts) {
    const std::uint64_t bytes = static_cast<std::uint64_t>(count) * row_bytes;
    out.push_back({at, bytes});
    at += bytes;
  }
  return out;
}
}  // namespace

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
  return submit(
      Issue{"all_to_all", c10d::OpType::ALLTOALL_BASE, opts.timeout, {output}, {output, input}},
      strictAlltoall(ring(), shape, splitRows(output, out_splits, size_, "output"),
                     splitRows(input, in_splits, size_, "input")));
}

BackendPapilio::WorkPtr BackendPapilio::barrier(const c10d::BarrierOptions& opts) {
  return submit(Issue{"barrier", c10d::OpType::BARRIER, opts.timeout, {}, {}},
                strictBarrier(ring()));
}

BackendPapilio::WorkPtr BackendPapilio::exchange(Issue issue, bool sends, std::optional<int> peer,
                                                 int tag) {
  const at::Tensor& tensor = single(issue.keep, issue.op);
  requireUsable(tensor, issue.op);
  engine::MessageRequest request;
  if (peer) {
    requireRoot(*peer, size_, issue.op);
    TORCH_CHECK_VALUE(*peer != rank_, "papilio: ", issue.op, " with itself (rank ", rank_, ")");
    request.peer = Rank{static_cast<std::uint32_t>(*peer)};
  }
  request.sends = sends;
  request.tag = tag;
  const Buffer buffer = bufferOf(tensor);
  request.data = buffer.data;
  request.bytes = buffer.bytes;
  request.shape = shapeFor(OpKind::message, tensor);
  return submit(std::move(issue), std::move(request));
}

BackendPapilio::WorkPtr BackendPapilio::send(Tensors& tensors, int to, int tag) {
  return exchange({"send", c10d::OpType::SEND, c10d::kUnsetTimeout, {}, tensors}, true, to, tag);
}

BackendPapilio::WorkPtr BackendPapilio::recv(Tensors& tensors, int from, int tag) {
  return exchange({"recv", c10d::OpType::RECV, c10d::kUnsetTimeout, tensors, tensors}, false, from,
                  tag);
}

BackendPapilio::WorkPtr BackendPapilio::recvAnysource(Tensors& tensors, int tag) {
  return exchange({"recv", c10d::OpType::RECVANYSOURCE, c10d::kUnsetTimeout, tensors, tensors},
                  false, std::nullopt, tag);
}

}  // namespace papilio::pg
