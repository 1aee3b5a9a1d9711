// From torch's vocabulary to ours, with the errors that torch users expect.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Types.hpp>

#include "core/round_shape.hpp"

namespace papilio::pg {

// Throws TypeError for a dtype without a counterpart.
DType dtypeOf(const at::Tensor& tensor);
struct Operation {
  ReduceOp op = ReduceOp::sum;
  double premul = 1.0;
};
// Throws ValueError for an op that `dtype` does not support.
Operation operationOf(const c10d::ReduceOp& op, DType dtype);
// Dense, contiguous, on the CPU or on a device that we can use: ValueError otherwise, naming
// `what`.
void requireUsable(const at::Tensor& tensor, const char* what);
// Exactly one tensor, as every caller in torch passes: ValueError otherwise.
const at::Tensor& single(const std::vector<at::Tensor>& tensors, const char* what);
int requireRoot(int64_t root, int size, const char* what);

}  // namespace papilio::pg
