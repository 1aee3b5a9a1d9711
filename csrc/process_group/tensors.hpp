// What the collectives ask of tensors before anything is sent, and where their memory lies.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "process_group/convert.hpp"
#include "process_group/strict_requests.hpp"

namespace papilio::pg {

Buffer bufferOf(const at::Tensor& tensor);
std::vector<Buffer> buffersOf(const std::vector<at::Tensor>& tensors);

// `count` usable tensors of the reference's dtype with `numel` elements each.
void requireList(const std::vector<at::Tensor>& tensors, std::size_t count, const at::Tensor& like,
                 int64_t numel, const char* what);
// Both usable and of one dtype, and `whole` has `size` times the elements of `part`.
void requireWhole(const at::Tensor& whole, const at::Tensor& part, int size, const char* what);

std::vector<at::Tensor> joined(std::vector<at::Tensor> a, const std::vector<at::Tensor>& b);

// `size` parts of equal length, in order.
std::vector<Buffer> partsOf(const at::Tensor& whole, int size);
// Rows [0, splits[0]), [splits[0], splits[0] + splits[1]), …; no splits: equal parts.
std::vector<Buffer> splitRows(const at::Tensor& tensor, const std::vector<int64_t>& splits,
                              int size, const char* what);

}  // namespace papilio::pg
