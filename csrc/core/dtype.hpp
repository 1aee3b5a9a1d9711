// Element types and reduce operations, by the numbers that travel on the wire.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace papilio {

enum class DType : std::uint8_t {
  float16 = 1,
  bfloat16,
  float32,
  float64,
  int8,
  uint8,
  int32,
  int64,
  boolean,
  complex64,
  complex128,
  int16,
};
inline constexpr std::uint8_t kDTypeLast = 12;

enum class ReduceOp : std::uint8_t {
  sum = 1,
  avg,
  premul_sum,
  product,
  min,
  max,
  band,
  bor,
  bxor,
};
inline constexpr std::uint8_t kReduceOpLast = 9;

// Bytes per element; 0 for a value that is no DType.
std::size_t elementSize(DType dtype);
std::string_view name(DType dtype);
std::string_view name(ReduceOp op);
bool isFloating(DType dtype);  // float16, bfloat16, float32, float64
bool isComplex(DType dtype);
bool isInteger(DType dtype);  // signed and unsigned integers, not boolean
// Whether `op` is defined on `dtype` (c10d: no AVG on integers, bitwise only on integers and bool).
bool supports(DType dtype, ReduceOp op);

}  // namespace papilio
