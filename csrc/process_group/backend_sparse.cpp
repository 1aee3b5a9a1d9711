// Sum of sparse tensors. Everybody gets everybody's entries and adds them up: two steps, the second
// with (n-1) times the bytes of the own entries sent.
#include "process_group/backend.hpp"
#include "process_group/tensors.hpp"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstring>

namespace papilio::pg {

namespace {

constexpr int64_t kMostDimensions = 16;
// entries, dtype, sparse dimensions, dense dimensions, sizes (-1: no such dimension)
constexpr int64_t kHeaderFields = 4 + kMostDimensions;

void requireSparse(const at::Tensor& tensor, const c10d::ReduceOp& op) {
  TORCH_CHECK_VALUE(tensor.defined() && tensor.layout() == at::kSparse,
                    "papilio: sparse all_reduce needs a tensor of layout torch.sparse_coo");
  TORCH_CHECK_VALUE(tensor.device().is_cpu() || canHoldStreams(tensor.device().type()),
                    "papilio: sparse all_reduce tensor is on ", tensor.device(),
                    "; papilio handles tensors on the CPU and on CUDA devices");
  TORCH_CHECK_VALUE(op == c10d::ReduceOp::SUM,
                    "papilio: all_reduce of sparse tensors supports SUM only");
  TORCH_CHECK_VALUE(tensor.dim() <= kMostDimensions, "papilio: sparse all_reduce tensor has ",
                    tensor.dim(), " dimensions, at most ", kMostDimensions, " are supported");
  dtypeOf(tensor);
}

at::Tensor headerOf(const at::Tensor& input) {
  at::Tensor header = at::full({kHeaderFields}, -1, at::kLong);
  auto* field = header.data_ptr<int64_t>();
  field[0] = input._nnz();
  field[1] = static_cast<int64_t>(dtypeOf(input));
  field[2] = input.sparse_dim();
  field[3] = input.dense_dim();
  std::copy(input.sizes().begin(), input.sizes().end(), field + 4);
  return header;
}

// Entries of every rank. Throws on every rank alike when the tensors do not fit together.
std::vector<int64_t> entriesOf(const at::Tensor& headers, const at::Tensor& mine) {
  std::vector<int64_t> out;
  for (int64_t r = 0; r < headers.size(0); ++r) {
    const at::Tensor theirs = headers[r];
    TORCH_CHECK_VALUE(at::equal(theirs.slice(0, 1), mine.slice(0, 1)),
                      "papilio: sparse all_reduce with another dtype or shape on rank ", r,
                      " than here; (dtype, sparse and dense dimensions, sizes) there ",
                      theirs.slice(0, 1), " and here ", mine.slice(0, 1));
    out.push_back(theirs[0].item<int64_t>());
    TORCH_CHECK_VALUE(out.back() >= 0, "papilio: sparse all_reduce: rank ", r, " says it has ",
                      out.back(), " entries");
  }
  return out;
}

// Indices and values of one rank, as they travel.
struct Entries {
  at::Tensor indices;
  at::Tensor values;

  Entries(const at::Tensor& like, int64_t count) {
    std::vector<int64_t> sizes{count};
    for (int64_t d = like.sparse_dim(); d < like.dim(); ++d) sizes.push_back(like.size(d));
    indices = at::empty({like.sparse_dim(), count}, at::kLong);
    values = at::empty(sizes, like.scalar_type());
  }
  std::uint64_t bytes() const { return indices.nbytes() + values.nbytes(); }
  void load(const std::byte* from) {
    if (indices.nbytes() != 0) std::memcpy(indices.data_ptr(), from, indices.nbytes());
    if (values.nbytes() != 0) {
      std::memcpy(values.data_ptr(), from + indices.nbytes(), values.nbytes());
    }
  }
};

at::Tensor packed(const at::Tensor& input) {
  const auto bytes = [](const at::Tensor& tensor) {
    return tensor.contiguous().view(-1).view(at::kByte);
  };
  return at::cat({bytes(input._indices()), bytes(input._values())});
}

at::Tensor sumOf(const std::vector<Entries>& all, const at::Tensor& like) {
  std::vector<at::Tensor> indices;
  std::vector<at::Tensor> values;
  for (const auto& entries : all) {
    indices.push_back(entries.indices);
    values.push_back(entries.values);
  }
  const at::Tensor every_index = at::cat(indices, 1);
  const at::Tensor every_value = at::cat(values, 0);
  at::_validate_sparse_coo_tensor_args(every_index, every_value, like.sizes());
  return at::sparse_coo_tensor(every_index, every_value, like.sizes()).coalesce();
}

}  // namespace

BackendPapilio::WorkPtr BackendPapilio::allreduce_sparse(Tensors& tensors,
                                                         const c10d::AllreduceOptions& opts) {
  at::NoGradGuard no_grad;
  at::Tensor tensor = single(tensors, "all_reduce");
  requireSparse(tensor, opts.reduceOp);
  const at::Tensor input = tensor.coalesce().cpu();
  const OneNumber one_number(*this);

  at::Tensor header = headerOf(input);
  at::Tensor headers = at::empty({size_, kHeaderFields}, at::kLong);
  c10d::AllgatherOptions as_gather;
  as_gather.timeout = opts.timeout;
  // The sizes have to be known before the entries can be asked for, and both steps must be issued
  // in the order of the caller's program: so the caller waits.
  _allgather_base(headers, header, as_gather)->wait();

  std::vector<Entries> all;
  std::uint64_t total = 0;
  for (const auto count : entriesOf(headers, header)) {
    all.emplace_back(input, count);
    total += all.back().bytes();
  }
  at::Tensor mine = packed(input);
  at::Tensor received = at::empty({static_cast<int64_t>(total)}, at::kByte);
  std::vector<Buffer> parts;
  std::byte* at = bufferOf(received).data;
  for (const auto& entries : all) {
    parts.push_back({at, entries.bytes()});
    at += entries.bytes();
  }
  RoundShape shape = shapeFor(OpKind::allgather, mine);
  shape.numel = 0;  // differs between ranks; each block's size is checked on arrival
  auto work =
      submit(Issue{"all_reduce", c10d::OpType::ALLREDUCE, opts, tensors, {mine, received}, {}},
             [=](Ring ring) { return strictAllgather(ring, shape, bufferOf(mine), parts); });
  work->wait();
  for (std::size_t r = 0; r < all.size(); ++r) all[r].load(parts[r].data);
  tensor.copy_(sumOf(all, input));
  if (!tensor.device().is_cpu()) {
    // The work is complete already, so nobody would wait for this copy.
    const c10::impl::VirtualGuardImpl guard(tensor.device().type());
    guard.synchronizeStream(guard.getStream(tensor.device()));
  }
  return work;
}

}  // namespace papilio::pg
