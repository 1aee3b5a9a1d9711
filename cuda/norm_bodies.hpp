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
inline constexpr unsigned kNormSteps = kNormSlice / kNormLanes;
PAPILIO_HOST_DEVICE std::uint64_t normSlices(std::uint64_t numel) {
  return (numel + kNormSlice - 1) / kNormSlice;
}

// One warp has a slice. A thread has eight lanes, neighbours as far as 16 bytes go: `Norm<T>::kRow`
// of them, then those 32 threads further. So the first halvings are between a thread's own lanes,
// the next ones between threads, the last ones between neighbours again.
template <class T>
struct Norm {
  static constexpr unsigned kRow = kPackBytes / sizeof(T);
  static constexpr unsigned kRows = 8 / kRow;
  PAPILIO_HOST_DEVICE static unsigned lane(unsigned thread, unsigned r) {
    return (r * 32 + thread) * kRow;
  }
};
struct ThreadSquares {
  double sum[8] = {};  // of lane(thread, r) + j at r * kRow + j
  bool bad = false;
};

template <class T>
PAPILIO_HOST_DEVICE void addSquare(ThreadSquares& to, unsigned at, T element) {
  using E = Element<T>;
  using Bits = typename E::Bits;
  to.bad |= (bitsAs<Bits>(element) & E::kExponent) == E::kExponent;
  const auto value = static_cast<double>(E::load(element));
  to.sum[at] += value * value;
}

// Some steps are read before the first of them is added: hides the latency of memory on a device.
template <class T>
PAPILIO_HOST_DEVICE void addWholeSlice(ThreadSquares& to, const T* values, unsigned thread) {
  using N = Norm<T>;
  using Row = Pack<T, N::kRow>;
  constexpr unsigned kAhead = 4 / N::kRows;
  for (unsigned j = 0; j < kNormSteps; j += kAhead) {
    Row rows[kAhead * N::kRows];
    for (unsigned i = 0; i < kAhead * N::kRows; ++i) {
      const unsigned at = (j + i / N::kRows) * kNormLanes + N::lane(thread, i % N::kRows);
      rows[i] = *reinterpret_cast<const Row*>(values + at);
    }
    for (unsigned i = 0; i < kAhead * N::kRows; ++i) {
      for (unsigned k = 0; k < N::kRow; ++k) {
        addSquare(to, i % N::kRows * N::kRow + k, rows[i].v[k]);
      }
    }
  }
}

// `wide`: data starts at a multiple of 16.
template <class T>
PAPILIO_HOST_DEVICE ThreadSquares squaresOf(const void* data, std::uint64_t numel,
                                            std::uint64_t slice, unsigned thread, bool wide) {
  using N = Norm<T>;
  ThreadSquares out;
  const T* values = static_cast<const T*>(data) + slice * kNormSlice;
  const std::uint64_t there = numel - slice * kNormSlice;
  if (wide && there >= kNormSlice) {
    addWholeSlice(out, values, thread);
    return out;
  }
  for (unsigned j = 0; j < kNormSteps; ++j) {
    for (unsigned r = 0; r < N::kRows; ++r) {
      const unsigned at = j * kNormLanes + N::lane(thread, r);
      for (unsigned k = 0; k < N::kRow && at + k < there; ++k) {
        addSquare(out, r * N::kRow + k, values[at + k]);
      }
    }
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
