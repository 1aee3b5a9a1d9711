// The coded bodies run on the host: block after block, in each the lanes one after the other.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "cuda/coded_bodies.hpp"
#include "cuda/dispatch.hpp"
#include "cuda/norm_bodies.hpp"

namespace papilio::cuda::testing {

// values(lane) of every block, then their encoding with what the lanes found together.
template <Codec kCodec, class Values>
void encodeBlocks(std::uint64_t numel, void* out, Values values) {
  LaneAt at{0, 0, numel};
  for (; at.block < at.blocks(); ++at.block) {
    LaneValues lanes[kLanes];
    std::uint32_t largest = 0;
    for (at.lane = 0; at.lane < kLanes; ++at.lane) {
      lanes[at.lane] = values(at);
      largest = std::max(largest, largestBits(lanes[at.lane]));
    }
    for (at.lane = 0; at.lane < kLanes; ++at.lane) {
      encodeLane<kCodec>(lanes[at.lane], largest, at, out);
    }
  }
}

// True: something in the result is not finite.
inline bool twinAverageCoded(Codec codec, DType dtype, const Members& members, unsigned own,
                             const Scale& scale, std::uint64_t numel, bool wide, void* out) {
  bool bad = false;
  forCoded(codec, dtype, false, [&](auto element, auto form) {
    encodeBlocks<form()>(numel, out, [&](const LaneAt& at) {
      const auto result = averageLane<decltype(element), form()>(members, own, wide, scale, at);
      bad |= nonFiniteLane(result);
      return result;
    });
    return true;
  });
  return bad;
}

inline void twinEncode(Codec codec, DType dtype, const Segment& segment) {
  forCoded(codec, dtype, false, [&](auto element, auto form) {
    encodeBlocks<form()>(segment.numel, segment.to, [&](const LaneAt& at) {
      return loadTensor<decltype(element)>(segment.from, at, aligned(segment.from));
    });
    return true;
  });
}

inline void twinDecode(Codec codec, DType dtype, const Segment& segment) {
  forCoded(codec, dtype, false, [&](auto element, auto form) {
    LaneAt at{0, 0, segment.numel};
    for (; at.block < at.blocks(); ++at.block) {
      for (at.lane = 0; at.lane < kLanes; ++at.lane) {
        storeTensor<decltype(element)>(decodeLane<form()>(segment.from, at), segment.to, at,
                                       aligned(segment.to));
      }
    }
    return true;
  });
}

inline double joinLanes(double* lanes) {
  for (unsigned half = kNormLanes / 2; half > 0; half /= 2) {
    for (unsigned lane = 0; lane < half; ++lane) joinHalf(lanes, lane, half);
  }
  return lanes[0];
}

// The lanes of all threads of a slice.
template <class T>
bool lanesOfSlice(const void* data, std::uint64_t numel, std::uint64_t slice, double* lanes) {
  using N = Norm<T>;
  bool bad = false;
  for (unsigned thread = 0; thread < kLanes; ++thread) {
    const auto mine = squaresOf<T>(data, numel, slice, thread, aligned(data));
    bad |= mine.bad;
    for (unsigned at = 0; at < 8; ++at) {
      lanes[N::lane(thread, at / N::kRow) + at % N::kRow] = mine.sum[at];
    }
  }
  return bad;
}

struct TwinSquares {
  double sum = 0.0;
  bool bad = false;
};
inline TwinSquares twinSumSquares(DType dtype, const void* data, std::uint64_t numel) {
  return forFloating(dtype, TwinSquares{}, [&](auto element) {
    TwinSquares out;
    double lanes[kNormLanes];
    std::vector<double> slices(normSlices(numel));
    for (std::uint64_t slice = 0; slice < slices.size(); ++slice) {
      out.bad |= lanesOfSlice<decltype(element)>(data, numel, slice, lanes);
      slices[slice] = joinLanes(lanes);
    }
    for (unsigned lane = 0; lane < kNormLanes; ++lane) {
      lanes[lane] = joinLane(slices.data(), slices.size(), lane);
    }
    out.sum = joinLanes(lanes);
    return out;
  });
}

}  // namespace papilio::cuda::testing
