#include "process_group/convert.hpp"

#include "process_group/staged.hpp"

#include <c10/util/Exception.h>

namespace papilio::pg {

DType dtypeOf(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kHalf: return DType::float16;
    case at::kBFloat16: return DType::bfloat16;
    case at::kFloat: return DType::float32;
    case at::kDouble: return DType::float64;
    case at::kChar: return DType::int8;
    case at::kByte: return DType::uint8;
    case at::kShort: return DType::int16;
    case at::kInt: return DType::int32;
    case at::kLong: return DType::int64;
    case at::kBool: return DType::boolean;
    case at::kComplexFloat: return DType::complex64;
    case at::kComplexDouble: return DType::complex128;
    default:
      TORCH_CHECK_TYPE(false, "papilio: dtype ", tensor.scalar_type(),
                       " is not supported; supported are float16, bfloat16, float32, float64, "
                       "int8, uint8, int16, int32, int64, bool, complex64, complex128");
  }
}

namespace {

double premulFactor(const c10d::ReduceOp& op) {
  const auto* supplement = dynamic_cast<const c10d::PreMulSumSupplement*>(op.supplement_.get());
  TORCH_CHECK_VALUE(supplement != nullptr, "papilio: PREMUL_SUM without a factor");
  return supplement->tensor_factor.defined() ? supplement->tensor_factor.item<double>()
                                             : supplement->double_factor;
}

ReduceOp kindOf(const c10d::ReduceOp& op) {
  switch (op.op_) {
    case c10d::ReduceOp::SUM: return ReduceOp::sum;
    case c10d::ReduceOp::AVG: return ReduceOp::avg;
    case c10d::ReduceOp::PREMUL_SUM: return ReduceOp::premul_sum;
    case c10d::ReduceOp::PRODUCT: return ReduceOp::product;
    case c10d::ReduceOp::MIN: return ReduceOp::min;
    case c10d::ReduceOp::MAX: return ReduceOp::max;
    case c10d::ReduceOp::BAND: return ReduceOp::band;
    case c10d::ReduceOp::BOR: return ReduceOp::bor;
    case c10d::ReduceOp::BXOR: return ReduceOp::bxor;
    default: TORCH_CHECK_VALUE(false, "papilio: unknown reduce op ", static_cast<int>(op.op_));
  }
}

}  // namespace

Operation operationOf(const c10d::ReduceOp& op, DType dtype) {
  Operation out;
  out.op = kindOf(op);
  TORCH_CHECK_VALUE(supports(dtype, out.op), "papilio: ", name(out.op), " is not defined for ",
                    name(dtype), " tensors");
  if (out.op == ReduceOp::premul_sum) out.premul = premulFactor(op);
  return out;
}

void requireUsable(const at::Tensor& tensor, const char* what) {
  TORCH_CHECK_VALUE(tensor.defined(), "papilio: ", what, " tensor is undefined");
  TORCH_CHECK_VALUE(tensor.layout() == at::kStrided, "papilio: ", what,
                    " tensor must be dense, got layout ", tensor.layout());
  TORCH_CHECK_VALUE(tensor.device().is_cpu() || canHoldStreams(tensor.device().type()),
                    "papilio: ", what, " tensor is on ", tensor.device(),
                    "; papilio handles tensors on the CPU and on CUDA devices (with a torch that "
                    "was built for them)");
  TORCH_CHECK_VALUE(tensor.is_contiguous(), "papilio: ", what, " tensor of shape ", tensor.sizes(),
                    " and strides ", tensor.strides(),
                    " must be contiguous; call .contiguous() first");
}

const at::Tensor& single(const std::vector<at::Tensor>& tensors, const char* what) {
  TORCH_CHECK_VALUE(tensors.size() == 1, "papilio: ", what, " takes one tensor per rank, got ",
                    tensors.size());
  return tensors[0];
}

int requireRoot(int64_t root, int size, const char* what) {
  TORCH_CHECK_VALUE(root >= 0 && root < size, "papilio: ", what, " root rank ", root,
                    " is outside the group of ", size, " ranks");
  return static_cast<int>(root);
}

}  // namespace papilio::pg
