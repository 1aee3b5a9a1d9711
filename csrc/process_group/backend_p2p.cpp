// Point to point.
#include "process_group/backend.hpp"
#include "process_group/monitored_barrier.hpp"
#include "process_group/tensors.hpp"

namespace papilio::pg {

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
  const Buffer buffer = bufferOf(sends ? issue.staged.in(tensor) : issue.staged.out(tensor));
  request.data = buffer.data;
  request.bytes = buffer.bytes;
  request.shape = shapeFor(OpKind::message, tensor);
  return submit(std::move(issue), std::move(request));
}

namespace {

// Negative tags belong to the backend itself.
int usersTag(int tag, const char* op) {
  TORCH_CHECK_VALUE(tag >= 0, "papilio: ", op, " tag ", tag, " must not be negative");
  return tag;
}

// Of what a new member is told; below those of monitored_barrier.
constexpr int kStateTags = -1000;

}  // namespace

BackendPapilio::WorkPtr BackendPapilio::sendState(const at::Tensor& tensor, int to, int channel) {
  return exchange({"send of state", c10d::OpType::SEND, c10d::kUnsetTimeout, {}, {tensor}, {}},
                  true, to, kStateTags - channel);
}

BackendPapilio::WorkPtr BackendPapilio::recvState(const at::Tensor& tensor, int from, int channel) {
  return exchange(
      {"recv of state", c10d::OpType::RECV, c10d::kUnsetTimeout, {tensor}, {tensor}, {}}, false,
      from, kStateTags - channel);
}

BackendPapilio::WorkPtr BackendPapilio::send(Tensors& tensors, int to, int tag) {
  return exchange({"send", c10d::OpType::SEND, c10d::kUnsetTimeout, {}, tensors, {}}, true, to,
                  usersTag(tag, "send"));
}

BackendPapilio::WorkPtr BackendPapilio::recv(Tensors& tensors, int from, int tag) {
  return exchange({"recv", c10d::OpType::RECV, c10d::kUnsetTimeout, tensors, tensors, {}}, false,
                  from, usersTag(tag, "recv"));
}

BackendPapilio::WorkPtr BackendPapilio::recvAnysource(Tensors& tensors, int tag) {
  return exchange({"recv", c10d::OpType::RECVANYSOURCE, c10d::kUnsetTimeout, tensors, tensors, {}},
                  false, std::nullopt, usersTag(tag, "recv"));
}

void BackendPapilio::monitoredBarrier(const c10d::BarrierOptions& opts, bool wait_all_ranks) {
  const bool unset = opts.timeout == c10d::kUnsetTimeout;
  MonitoredBarrier{group(),
                   {name_, Rank{static_cast<std::uint32_t>(rank_)},
                    static_cast<std::uint32_t>(size_), "monitored_barrier"},
                   ++monitored_barriers_,
                   unset ? timeout_.load() : opts.timeout,
                   wait_all_ranks}
      .run();
}

}  // namespace papilio::pg
