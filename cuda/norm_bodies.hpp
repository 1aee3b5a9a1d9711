// Sum of squares of a shard, and whether it has a NaN or an infinity, in one pass: the norm that
// tells a diverging rank. engine::sumSquares, added in the same order: a slice of 2048 elements by
// 256 lanes, lane l the elements l, l + 256, …; lanes joined by halves (128, 64, …, 1); the slices'
// sums by 256 lanes and halves again. float64 throughout.
#pragma once

#include <cstdint>

#include "cuda/bodies.hpp"

namespace papilio::cuda {

inline constexpr unsigned kNormLanes = 256;
inline constexpr std::uint64_t kNormSlice = 2048;
PAPILIO_HOST_DEVICE std::uint64_t normSlices(std::uint64_t numel) {
  return (numel + kNormSlice - 1) / kNormSlice;
}

struct LaneSquares {
  double sum = 0.0;
  bool bad = false;
};

template <class T>
PAPILIO_HOST_DEVICE LaneSquares squaresLane(const void* data, std::uint64_t numel,
                                            std::uint64_t slice, unsigned lane) {
  using E = Element<T>;
  using Bits = typename E::Bits;
  LaneSquares out;
  const T* values = static_cast<const T*>(data);
  for (unsigned j = 0; j < kNormSlice / kNormLanes; ++j) {
    const std::uint64_t at = slice * kNormSlice + j * kNormLanes + lane;
    if (at >= numel) break;
    const T element = values[at];
    out.bad |= (bitsAs<Bits>(element) & E::kExponent) == E::kExponent;
    const auto value = static_cast<double>(E::load(element));
    out.sum += value * value;
  }
  return out;
}

PAPILIO_HOST_DEVICE double joinLane(const double* slices, std::uint64_t count, unsigned lane) {
  double sum = 0.0;
  for (std::uint64_t at = lane; at < count; at += kNormLanes) sum += slices[at];
  return sum;
}

// One halving: call for every lane below `half`, for half = 128, 64, …, 1.
PAPILIO_HOST_DEVICE void joinHalf(double* lanes, unsigned lane, unsigned half) {
  lanes[lane] += lanes[lane + half];
}

}  // namespace papilio::cuda
