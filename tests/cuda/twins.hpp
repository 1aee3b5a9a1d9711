// The kernel bodies run on the host by `threads` pretended threads, one after the other: the split
// into packs, tails and shares is that of the device.
#pragma once

#include "cuda/bodies.hpp"
#include "cuda/dispatch.hpp"

namespace papilio::cuda::testing {

inline void twinAverage(DType dtype, const Members& members, const Scale& scale,
                        std::uint64_t numel, bool wide, void* out, unsigned threads) {
  forFloating(dtype, false, [&](auto element) {
    for (unsigned t = 0; t < threads; ++t) {
      averageElements<decltype(element)>(members, scale, numel, wide, out, t, threads);
    }
    return true;
  });
}

inline bool twinNonFinite(DType dtype, const void* data, std::uint64_t numel, bool wide,
                          unsigned threads) {
  return forFloating(dtype, false, [&](auto element) {
    bool found = false;
    for (unsigned t = 0; t < threads; ++t) {
      found |= nonFiniteElements<decltype(element)>(data, numel, wide, t, threads);
    }
    return found;
  });
}

inline void twinMove(DType dtype, const Segment& segment, const Scale& scale, unsigned threads) {
  forFloating(dtype, false, [&](auto element) {
    for (unsigned t = 0; t < threads; ++t) {
      moveElements<decltype(element)>(segment, scale, t, threads);
    }
    return true;
  });
}

}  // namespace papilio::cuda::testing
