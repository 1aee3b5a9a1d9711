// Bodies of the kernels, compiled for device and host. Each does the share of one thread: packs
// first, first + stride, … and then the elements that fill no pack. On the device first is the
// thread's index in the grid and stride the number of threads; on the host (0, 1) does everything.
//
// `wide` promises that every pointer is a multiple of 16 (see aligned()). Sizes are in elements.
#pragma once

#include <cstdint>

#include "cuda/element.hpp"

namespace papilio::cuda {

inline constexpr unsigned kMaxMembers = 256;  // kMaxRanks: all of a group in one launch

// Inputs of an average in the order in which they are added (rank order); count >= 1.
struct Members {
  const void* data[kMaxMembers];
  float weight[kMaxMembers];
  unsigned count;
};

PAPILIO_HOST_DEVICE bool aligned(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % kPackBytes == 0;
}

// Scaled weighted sum of pack `at` (in packs of N) of every member. All is read before the result
// is written, so `out` may be one of the members. Multiplication and addition stay two roundings:
// the device compiler runs with --fmad=false, the host's with -ffp-contract=off.
template <class T, unsigned N>
PAPILIO_HOST_DEVICE void averagePack(const Members& members, const Scale& scale, std::uint64_t at,
                                     void* out) {
  using E = Element<T>;
  using Sum = typename E::Sum;
  Sum sum[N];
  const auto first = static_cast<const Pack<T, N>*>(members.data[0])[at];
  const auto weight = static_cast<Sum>(members.weight[0]);
  for (unsigned j = 0; j < N; ++j) sum[j] = E::load(first.v[j]) * weight;
  PAPILIO_UNROLL
  for (unsigned k = 1; k < members.count; ++k) {
    const auto next = static_cast<const Pack<T, N>*>(members.data[k])[at];
    const auto by = static_cast<Sum>(members.weight[k]);
    for (unsigned j = 0; j < N; ++j) sum[j] += E::load(next.v[j]) * by;
  }
  Pack<T, N> result;
  for (unsigned j = 0; j < N; ++j) result.v[j] = E::store(scaled(sum[j], scale));
  static_cast<Pack<T, N>*>(out)[at] = result;
}

// out[i] = scale * sum_k weight_k * in_k[i]: engine::reduceWeighted.
template <class T>
PAPILIO_HOST_DEVICE void averageElements(const Members& members, const Scale& scale,
                                         std::uint64_t numel, bool wide, void* out,
                                         std::uint64_t first, std::uint64_t stride) {
  constexpr unsigned kWide = kPackBytes / sizeof(T);
  const std::uint64_t packs = wide ? numel / kWide : 0;
  for (std::uint64_t at = first; at < packs; at += stride) {
    averagePack<T, kWide>(members, scale, at, out);
  }
  for (std::uint64_t at = packs * kWide + first; at < numel; at += stride) {
    averagePack<T, 1>(members, scale, at, out);
  }
}

// Has this thread's share a NaN or an infinity? engine::hasNonFinite.
template <class T>
PAPILIO_HOST_DEVICE bool nonFiniteElements(const void* data, std::uint64_t numel, bool wide,
                                           std::uint64_t first, std::uint64_t stride) {
  using Bits = typename Element<T>::Bits;
  constexpr Bits kExponent = Element<T>::kExponent;
  constexpr unsigned kWide = kPackBytes / sizeof(T);
  const std::uint64_t packs = wide ? numel / kWide : 0;
  bool found = false;
  for (std::uint64_t at = first; at < packs; at += stride) {
    const auto pack = static_cast<const Pack<Bits, kWide>*>(data)[at];
    for (unsigned j = 0; j < kWide; ++j) found |= (pack.v[j] & kExponent) == kExponent;
  }
  for (std::uint64_t at = packs * kWide + first; at < numel; at += stride) {
    found |= (static_cast<const Bits*>(data)[at] & kExponent) == kExponent;
  }
  return found;
}

// A range of a tensor on its way into a staging slab, or back. The two do not overlap, or are the
// same.
struct Segment {
  const void* from;
  void* to;
  std::uint64_t numel;
};

template <class T, unsigned N>
PAPILIO_HOST_DEVICE void movePack(const Segment& segment, const Scale& scale, std::uint64_t at) {
  using E = Element<T>;
  auto pack = static_cast<const Pack<T, N>*>(segment.from)[at];
  if (!scale.one) {
    for (unsigned j = 0; j < N; ++j) pack.v[j] = E::store(scaled(E::load(pack.v[j]), scale));
  }
  static_cast<Pack<T, N>*>(segment.to)[at] = pack;
}

// to[i] = scale * from[i]: engine::scale with a destination; scale 1 copies bits.
template <class T>
PAPILIO_HOST_DEVICE void moveElements(const Segment& segment, const Scale& scale,
                                      std::uint64_t first, std::uint64_t stride) {
  constexpr unsigned kWide = kPackBytes / sizeof(T);
  const bool wide = aligned(segment.from) && aligned(segment.to);
  const std::uint64_t packs = wide ? segment.numel / kWide : 0;
  for (std::uint64_t at = first; at < packs; at += stride) {
    movePack<T, kWide>(segment, scale, at);
  }
  for (std::uint64_t at = packs * kWide + first; at < segment.numel; at += stride) {
    movePack<T, 1>(segment, scale, at);
  }
}

}  // namespace papilio::cuda
