// From a dtype known at run time to the element type of a body. Host only.
#pragma once

#include "core/dtype.hpp"
#include "cuda/element.hpp"

namespace papilio::cuda {

// use(T{}) for the element type of `dtype`; `otherwise` for a dtype that is not floating.
template <class Result, class Use>
Result forFloating(DType dtype, Result otherwise, Use use) {
  switch (dtype) {
    case DType::float16: return use(Float16{});
    case DType::bfloat16: return use(BFloat16{});
    case DType::float32: return use(float{});
    case DType::float64: return use(double{});
    default: return otherwise;
  }
}

}  // namespace papilio::cuda
