// From a dtype known at run time to the element type of a body. Host only.
#pragma once

#include <type_traits>

#include "core/codec.hpp"
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

// use(T{}, form) for the pairs that codecFor() encodes; form() is the codec, a constant.
template <class Result, class Use>
Result forCoded(Codec codec, DType dtype, Result otherwise, Use use) {
  const bool single = dtype == DType::float32;
  if (codec == Codec::bf16 && single) {
    return use(float{}, std::integral_constant<Codec, Codec::bf16>());
  }
  if (codec == Codec::fp16 && single) {
    return use(float{}, std::integral_constant<Codec, Codec::fp16>());
  }
  if (codec != Codec::int8) return otherwise;
  const std::integral_constant<Codec, Codec::int8> int8;
  switch (dtype) {
    case DType::float32: return use(float{}, int8);
    case DType::bfloat16: return use(BFloat16{}, int8);
    case DType::float16: return use(Float16{}, int8);
    default: return otherwise;
  }
}

}  // namespace papilio::cuda
