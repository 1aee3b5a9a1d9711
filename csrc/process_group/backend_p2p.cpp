// Point to point.
#include "process_group/backend.hpp"
#include "process_group/monitored_barrier.hpp"
#include "process_group/tensors.hpp"

namespace papilio::pg {

BackendPapilio::WorkPtr BackendPapilio::exchange(Issue issue, bool sends, std::optional<int> peer,
                                                 int tag) {
  const at::Tensor& tensor = single(issue.keep, issue.op);
  requireUsable(tensor, issue.op);
  // Negative tags belong to the backend itself.
  TORCH_CHECK_VALUE(tag >= 0, "papilio: ", issue.op, " tag ", tag, " must not be negative");
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