// What results must be, by arithmetic that shares nothing with the engine's: one element at a time,
// halves through the compiler's own type, everything else through the widest type there is.
#pragma once

#include <cstddef>
#include <vector>

#include "core/dtype.hpp"
#include "fault/report.hpp"

namespace papilio::engine::testing {

using Bytes = std::vector<std::byte>;

double loadFloating(DType dtype, const std::byte* data, std::uint64_t index);
// Rounds to nearest even: float64 to float32, from there to a half.
void storeFloating(DType dtype, std::byte* data, std::uint64_t index, double value);
bool isNan(DType dtype, const std::byte* data, std::uint64_t index);
// Same bits, except that any NaN equals any NaN. Index of the first difference, or numel.
std::uint64_t firstDifference(DType dtype, const std::byte* a, const std::byte* b,
                              std::uint64_t numel);

// Random values: magnitudes that make rounding visible, and every special value now and then.
Bytes randomFloating(DType dtype, std::uint64_t numel, unsigned seed, bool specials = false);

// times / over * sum of weight_k * in_k in the order given, as api.md 3 says it; float64 multiplies
// and divides one after the other.
Bytes weightedSum(DType dtype, const std::vector<const std::byte*>& inputs,
                  const std::vector<float>& weights, std::uint64_t numel, double times,
                  double over = 1.0);

// What the report says the result is: contributors per chunk, local values where it says local.
Bytes explain(const fault::Report& report, const std::vector<Bytes>& inputs,
              const std::vector<float>& weights, std::uint32_t me);

}  // namespace papilio::engine::testing
