#include "cuda/kernels.hpp"

#include <algorithm>

#include "cuda/dispatch.hpp"

namespace papilio::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kBatch = 128;

struct Batch {
  Segment segments[kBatch];
};
// Arguments live in constant memory, of which a kernel has 4 KiB on every device.
static_assert(sizeof(Members) + sizeof(Scale) + 3 * sizeof(std::uint64_t) <= 4096);
static_assert(sizeof(Batch) + sizeof(Scale) <= 4096);

__device__ std::uint64_t threadIndex() {
  return static_cast<std::uint64_t>(blockIdx.x) * kThreads + threadIdx.x;
}
__device__ std::uint64_t threadCount() { return static_cast<std::uint64_t>(gridDim.x) * kThreads; }

template <class T>
__global__ void __launch_bounds__(kThreads)
    averageKernel(const __grid_constant__ Members members, const __grid_constant__ Scale scale,
                  std::uint64_t numel, bool wide, void* out) {
  averageElements<T>(members, scale, numel, wide, out, threadIndex(), threadCount());
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    scanKernel(const void* data, std::uint64_t numel, bool wide, unsigned* found) {
  const bool mine = nonFiniteElements<T>(data, numel, wide, threadIndex(), threadCount());
  if (__syncthreads_or(mine ? 1 : 0) != 0 && threadIdx.x == 0) atomicOr(found, 1u);
}

// One row of blocks per segment.
template <class T>
__global__ void __launch_bounds__(kThreads)
    moveKernel(const __grid_constant__ Batch batch, const __grid_constant__ Scale scale) {
  moveElements<T>(batch.segments[blockIdx.y], scale, threadIndex(), threadCount());
}

// Blocks in x, so that `rows` rows of them fill the device once and no thread is without work.
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
  const std::uint64_t fill = std::max(1u, static_cast<unsigned>(processors * resident) / rows);
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

// Threads that have a pack, or an element when access is narrow.
template <class T>
std::uint64_t threadsFor(std::uint64_t numel, bool wide) {
  return wide ? std::max<std::uint64_t>(numel * sizeof(T) / kPackBytes, 1) : numel;
}

}  // namespace

cudaError_t average(DType dtype, const Members& members, const Scale& scale, std::uint64_t numel,
                    void* out, cudaStream_t stream) {
  if (members.count == 0 || members.count > kMaxMembers) return cudaErrorInvalidValue;
  const bool wide = aligned(out) && std::all_of(members.data, members.data + members.count,
                                                [](const void* data) { return aligned(data); });
  return forFloating(dtype, cudaErrorInvalidValue, [&](auto element) {
    using T = decltype(element);
    if (numel == 0) return cudaSuccess;
    return launch(averageKernel<T>, threadsFor<T>(numel, wide), 1, stream, members, scale, numel,
                  wide, out);
  });
}

cudaError_t scanNonFinite(DType dtype, const void* data, std::uint64_t numel, unsigned* found,
                          cudaStream_t stream) {
  const bool wide = aligned(data);
  return forFloating(dtype, cudaErrorInvalidValue, [&](auto element) {
    using T = decltype(element);
    if (numel == 0) return cudaSuccess;
    return launch(scanKernel<T>, threadsFor<T>(numel, wide), 1, stream, data, numel, wide, found);
  });
}

cudaError_t move(DType dtype, std::span<const Segment> segments, const Scale& scale,
                 cudaStream_t stream) {
  return forFloating(dtype, cudaErrorInvalidValue, [&](auto element) {
    using T = decltype(element);
    for (std::size_t at = 0; at < segments.size(); at += kBatch) {
      const auto part = segments.subspan(at, std::min<std::size_t>(kBatch, segments.size() - at));
      Batch batch{};
      std::copy(part.begin(), part.end(), batch.segments);
      const auto longest = std::max_element(part.begin(), part.end(),
                                            [](auto& a, auto& b) { return a.numel < b.numel; });
      const auto error = launch(moveKernel<T>, threadsFor<T>(longest->numel, true),
                                static_cast<unsigned>(part.size()), stream, batch, scale);
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  });
}

}  // namespace papilio::cuda
