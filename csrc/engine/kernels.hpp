// Arithmetic of the collectives on host memory. Every function is the reference for its device
// twin: the same operations in the same order, no fused multiply-add, so results agree bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/dtype.hpp"

namespace papilio::engine {

struct ReduceInput {
  const std::byte* data = nullptr;
  float weight = 1.0F;
};

// What a sum is multiplied by, then divided by: two steps, so that the mean of three is the
// quotient and not the product with a rounded third.
struct Factor {
  double times = 1.0;
  double over = 1.0;
  Factor(double t = 1.0, double o = 1.0) : times(t), over(o) {}  // NOLINT: a number is a factor
  bool one() const { return times == over; }
};

// out[i] = factor * sum_k weight_k * in_k[i], k in the order given (rank order). Accumulates in
// float32 (float64 for float64), weights multiplied only where they differ from 1; `factor` is
// applied at the end, in float64, and only when it is not 1. Floating types only; `out` may be one
// of the inputs. Formula: api.md 3, with factor = n * premul / sum of weights (SUM) or 1 / sum
// (AVG).
void reduceWeighted(DType dtype, std::span<const ReduceInput> inputs, std::uint64_t numel,
                    Factor factor, std::byte* out);

// out = in_0 op in_1 op …, in order, for every op and dtype that supports() allows; AVG divides by
// the number of inputs, PREMUL_SUM multiplies the sum by `premul`. Integers wrap around.
void reduceStrict(DType dtype, ReduceOp op, std::span<const std::byte* const> inputs,
                  std::uint64_t numel, double premul, std::byte* out);

// data[i] *= factor, floating types; nothing happens for factor 1.
void scale(DType dtype, std::byte* data, std::uint64_t numel, Factor factor);

// Is there a NaN or an infinity? Floating types only.
bool hasNonFinite(DType dtype, const std::byte* data, std::uint64_t numel);

// Sum of squares in float64, added in the order that cuda/norm_bodies.hpp says. Floating types
// only.
double sumSquares(DType dtype, const std::byte* data, std::uint64_t numel);

}  // namespace papilio::engine
