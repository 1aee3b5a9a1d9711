#include "cuda/coded_kernels.hpp"

#include <vector>

#include "cuda/dispatch.hpp"
#include "cuda/kernels.hpp"
#include "cuda/launch.cuh"

namespace papilio::cuda {
namespace {

constexpr unsigned kWarps = kThreads / kLanes;
static_assert(sizeof(Members) + sizeof(Scale) + 5 * sizeof(std::uint64_t) <= 4096);

// A warp's blocks of a chunk: from `first` in strides. All lanes of a warp make the same steps.
__device__ std::uint64_t firstBlock() {
  return static_cast<std::uint64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
}
__device__ std::uint64_t blockStride() { return static_cast<std::uint64_t>(gridDim.x) * kWarps; }
__device__ unsigned lane() { return threadIdx.x % kLanes; }
__device__ std::uint32_t largestOfWarp(const LaneValues& in) {
  return __reduce_max_sync(0xffffffffu, largestBits(in));
}

// At least four blocks at once: 64 registers a thread, which ptxas does not offer unasked.
template <class T, Codec kCodec>
__global__ void __launch_bounds__(kThreads, 4)
    averageCodedKernel(const __grid_constant__ Members members, unsigned own, bool wide,
                       const __grid_constant__ Scale scale, std::uint64_t numel, void* out,
                       unsigned* found) {
  bool bad = false;
  LaneAt at{firstBlock(), lane(), numel};
  for (; at.block < at.blocks(); at.block += blockStride()) {
    const LaneValues result = averageLane<T, kCodec>(members, own, wide, scale, at);
    bad |= nonFiniteLane(result);
    encodeLane<kCodec>(result, largestOfWarp(result), at, out);
  }
  if (__any_sync(0xffffffffu, bad) && at.lane == 0) atomicOr(found, 1u);
}

template <class T, Codec kCodec>
__global__ void __launch_bounds__(kThreads) encodeKernel(const __grid_constant__ Batch batch) {
  const Segment& segment = batch.segments[blockIdx.y];
  const bool wide = aligned(segment.from);
  LaneAt at{firstBlock(), lane(), segment.numel};
  for (; at.block < at.blocks(); at.block += blockStride()) {
    const LaneValues values = loadTensor<T>(segment.from, at, wide);
    encodeLane<kCodec>(values, largestOfWarp(values), at, segment.to);
  }
}

template <class T, Codec kCodec>
__global__ void __launch_bounds__(kThreads) decodeKernel(const __grid_constant__ Batch batch) {
  const Segment& segment = batch.segments[blockIdx.y];
  const bool wide = aligned(segment.to);
  LaneAt at{firstBlock(), lane(), segment.numel};
  for (; at.block < at.blocks(); at.block += blockStride()) {
    storeTensor<T>(decodeLane<kCodec>(segment.from, at), segment.to, at, wide);
  }
}

// A warp's slice: the lanes of its threads joined by halves, first those of one thread, then those
// 16, 8, … threads apart. There each thread keeps half of the sums that it has and its partner the
// other half, while there are several; so the last halvings, between neighbours that one thread
// had, are between threads 16, 8, … apart too. Every thread gets the sum.
template <class T>
__device__ double joinWarp(const ThreadSquares& mine) {
  constexpr unsigned kRow = Norm<T>::kRow;
  constexpr unsigned kAll = 0xffffffffu;
  double sums[8];
  for (unsigned at = 0; at < 8; ++at) sums[at] = mine.sum[at];
#pragma unroll
  for (unsigned half = 4; half >= kRow; half /= 2) {
#pragma unroll
    for (unsigned at = 0; at < half; ++at) sums[at] += sums[at + half];
  }
  unsigned count = kRow;
#pragma unroll
  for (unsigned apart = kLanes / 2; apart > 0; apart /= 2) {
    const bool upper = (lane() & apart) != 0;
    if (count == 1) {
      sums[0] += __shfl_xor_sync(kAll, sums[0], apart);
      continue;
    }
    count /= 2;
#pragma unroll
    for (unsigned at = 0; at < count; ++at) {
      const double given = upper ? sums[at] : sums[at + count];
      const double kept = upper ? sums[at + count] : sums[at];
      sums[at] = kept + __shfl_xor_sync(kAll, given, apart);
    }
  }
#pragma unroll
  for (unsigned half = kRow / 2, apart = kLanes / 2; half > 0; half /= 2, apart /= 2) {
    sums[0] += __shfl_xor_sync(kAll, sums[0], apart);
  }
  return sums[0];
}

template <class T>
__global__ void __launch_bounds__(kThreads, 4)
    squaresKernel(const void* data, std::uint64_t numel, bool wide, double* slices,
                  unsigned* found) {
  bool bad = false;
  for (std::uint64_t slice = firstBlock(); slice < normSlices(numel); slice += blockStride()) {
    const ThreadSquares mine = squaresOf<T>(data, numel, slice, lane(), wide);
    bad |= mine.bad;
    const double sum = joinWarp<T>(mine);
    if (lane() == 0) slices[slice] = sum;
  }
  if (__any_sync(0xffffffffu, bad) && lane() == 0) atomicOr(found, 1u);
}

static_assert(kThreads == kNormLanes);
__device__ double joinBlock(double* lanes, double mine) {
  lanes[threadIdx.x] = mine;
  for (unsigned half = kNormLanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) joinHalf(lanes, threadIdx.x, half);
  }
  __syncthreads();
  return lanes[0];
}

__global__ void __launch_bounds__(kThreads)
    joinKernel(const double* slices, std::uint64_t count, double* sum) {
  __shared__ double lanes[kNormLanes];
  const double total = joinBlock(lanes, joinLane(slices, count, threadIdx.x));
  if (threadIdx.x == 0) *sum = total;
}

// One thread per 8 elements, in whole warps.
std::uint64_t threadsFor(std::uint64_t numel) { return blocksOf(numel) * kLanes; }

// Chunks in the form `codec`, and those that codecFor() leaves raw.
struct Sorted {
  std::vector<Segment> coded;
  std::vector<Segment> raw;
};
Sorted sorted(Codec codec, DType dtype, std::span<const Segment> segments) {
  Sorted out;
  for (const auto& segment : segments) {
    const bool raw = codecFor(codec, elementSize(dtype), segment.numel) == Codec::raw;
    (raw ? out.raw : out.coded).push_back(segment);
  }
  return out;
}

}  // namespace

cudaError_t averageCoded(Codec codec, DType dtype, const Members& members, unsigned own,
                         const Scale& scale, std::uint64_t numel, void* out, unsigned* found,
                         cudaStream_t stream) {
  if (members.count == 0 || members.count > kMaxMembers) return cudaErrorInvalidValue;
  if (codecFor(codec, elementSize(dtype), numel) == Codec::raw) {
    const auto error = average(dtype, members, scale, numel, out, stream);
    return error != cudaSuccess ? error : scanNonFinite(dtype, out, numel, found, stream);
  }
  for (unsigned k = 0; k < members.count; ++k) {
    if (k != own && !aligned(members.data[k])) return cudaErrorInvalidValue;
  }
  if (!aligned(out)) return cudaErrorInvalidValue;
  const bool wide = own < members.count && aligned(members.data[own]);
  return forCoded(codec, dtype, cudaErrorInvalidValue, [&](auto element, auto form) {
    return launch(averageCodedKernel<decltype(element), form()>, threadsFor(numel), 1, stream,
                  members, own, wide, scale, numel, out, found);
  });
}

cudaError_t encodeSegments(Codec codec, DType dtype, std::span<const Segment> segments,
                           cudaStream_t stream) {
  const Sorted parts = sorted(codec, dtype, segments);
  for (const auto& segment : parts.coded) {
    if (!aligned(segment.to)) return cudaErrorInvalidValue;
  }
  const auto error = move(dtype, parts.raw, Scale(), stream);
  if (error != cudaSuccess || parts.coded.empty()) return error;
  return forCoded(codec, dtype, cudaErrorInvalidValue, [&](auto element, auto form) {
    return eachBatch(parts.coded, [&](const Batch& batch, unsigned rows, std::uint64_t longest) {
      return launch(encodeKernel<decltype(element), form()>, threadsFor(longest), rows, stream,
                    batch);
    });
  });
}

cudaError_t decodeSegments(Codec codec, DType dtype, std::span<const Segment> segments,
                           cudaStream_t stream) {
  const Sorted parts = sorted(codec, dtype, segments);
  for (const auto& segment : parts.coded) {
    if (!aligned(segment.from)) return cudaErrorInvalidValue;
  }
  const auto error = move(dtype, parts.raw, Scale(), stream);
  if (error != cudaSuccess || parts.coded.empty()) return error;
  return forCoded(codec, dtype, cudaErrorInvalidValue, [&](auto element, auto form) {
    return eachBatch(parts.coded, [&](const Batch& batch, unsigned rows, std::uint64_t longest) {
      return launch(decodeKernel<decltype(element), form()>, threadsFor(longest), rows, stream,
                    batch);
    });
  });
}

cudaError_t sumSquares(DType dtype, const void* data, std::uint64_t numel, double* slices,
                       double* sum, unsigned* found, cudaStream_t stream) {
  const auto count = normSlices(numel);
  return forFloating(dtype, cudaErrorInvalidValue, [&](auto element) {
    if (count != 0) {
      const auto error = launch(squaresKernel<decltype(element)>, count * kLanes, 1, stream, data,
                                numel, aligned(data), slices, found);
      if (error != cudaSuccess) return error;
    }
    return launch(joinKernel, kNormLanes, 1, stream, slices, count, sum);
  });
}

}  // namespace papilio::cuda
