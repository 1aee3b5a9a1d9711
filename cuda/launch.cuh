// How the kernels are launched: a block for every 256 threads that have work, so that the device
// hands out the next one as soon as one ends.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <span>

#include "cuda/bodies.hpp"

namespace papilio::cuda {

constexpr unsigned kThreads = 256;
constexpr unsigned kBatch = 128;

struct Batch {
  Segment segments[kBatch];
};

__device__ inline std::uint64_t threadIndex() {
  return static_cast<std::uint64_t>(blockIdx.x) * kThreads + threadIdx.x;
}
__device__ inline std::uint64_t threadCount() {
  return static_cast<std::uint64_t>(gridDim.x) * kThreads;
}

// Rows differ in length, and a block without work costs a nanosecond. On an H100 one block per 256
// threads moves 7 % more bytes per second than as many blocks as it holds at once (docs/gpu.md).
constexpr unsigned kFills = 128;

// Blocks in x, so that no thread is without work in the longest of `rows` rows, and together they
// are at most kFills times what the device holds.
template <class Kernel>
cudaError_t blocksFor(Kernel kernel, std::uint64_t threads, unsigned rows, unsigned& blocks) {
  int device = 0;
  int processors = 0;
  int resident = 0;
  if (const auto error = cudaGetDevice(&device); error != cudaSuccess) return error;
  if (const auto error =
          cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
      error != cudaSuccess) {
    return error;
  }
  if (const auto error =
          cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, kThreads, 0);
      error != cudaSuccess) {
    return error;
  }
  const std::uint64_t fill =
      std::max(1u, static_cast<unsigned>(processors * resident) * kFills / rows);
  blocks = static_cast<unsigned>(
      std::clamp<std::uint64_t>((threads + kThreads - 1) / kThreads, 1, fill));
  return cudaSuccess;
}

template <class Kernel, class... Arguments>
cudaError_t launch(Kernel kernel, std::uint64_t threads, unsigned rows, cudaStream_t stream,
                   const Arguments&... arguments) {
  unsigned blocks = 0;
  if (const auto error = blocksFor(kernel, threads, rows, blocks); error != cudaSuccess) {
    return error;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks, rows);
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// use(batch, rows, longest) for every 128 segments.
template <class Use>
cudaError_t eachBatch(std::span<const Segment> segments, Use use) {
  for (std::size_t at = 0; at < segments.size(); at += kBatch) {
    const auto part = segments.subspan(at, std::min<std::size_t>(kBatch, segments.size() - at));
    Batch batch{};
    std::copy(part.begin(), part.end(), batch.segments);
    const auto longest = std::max_element(part.begin(), part.end(),
                                          [](auto& a, auto& b) { return a.numel < b.numel; });
    const auto error = use(batch, static_cast<unsigned>(part.size()), longest->numel);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace papilio::cuda
