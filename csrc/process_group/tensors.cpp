#include "process_group/tensors.hpp"

#include <c10/util/Exception.h>

namespace papilio::pg {

Buffer bufferOf(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.data_ptr()), static_cast<std::uint64_t>(tensor.nbytes())};
}

std::vector<Buffer> buffersOf(const std::vector<at::Tensor>& tensors) {
  std::vector<Buffer> out;
  for (const auto& tensor : tensors) out.push_back(bufferOf(tensor));
  return out;
}

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

void requireWhole(const at::Tensor& whole, const at::Tensor& part, int size, const char* what) {
  requireUsable(whole, what);
  requireUsable(part, what);
  TORCH_CHECK_TYPE(whole.scalar_type() == part.scalar_type(), "papilio: ", what,
                   " with tensors of two dtypes, ", whole.scalar_type(), " and ",
                   part.scalar_type());
  TORCH_CHECK_VALUE(whole.numel() == part.numel() * size, "papilio: ", what, ": ", whole.numel(),
                    " elements for all ranks, expected ", part.numel(), " x ", size);
}

std::vector<Buffer> partsOf(const at::Tensor& whole, int size) {
  const Buffer all = bufferOf(whole);
  const std::uint64_t bytes = all.bytes / static_cast<std::uint64_t>(size);
  std::vector<Buffer> out;
  for (int r = 0; r < size; ++r) {
    out.push_back({all.data + static_cast<std::uint64_t>(r) * bytes, bytes});
  }
  return out;
}

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

}  // namespace papilio::pg
