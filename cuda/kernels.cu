#include "cuda/kernels.hpp"

#include <algorithm>

#include "cuda/dispatch.hpp"
#include "cuda/launch.cuh"

namespace papilio::cuda {
namespace {

// Arguments live in constant memory, of which a kernel has 4 KiB on every device.
static_assert(sizeof(Members) + sizeof(Scale) + 3 * sizeof(std::uint64_t) <= 4096);
static_assert(sizeof(Batch) + sizeof(Scale) <= 4096);

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
    return eachBatch(segments, [&](const Batch& batch, unsigned rows, std::uint64_t longest) {
      return launch(moveKernel<T>, threadsFor<T>(longest, true), rows, stream, batch, scale);
    });
  });
}

}  // namespace papilio::cuda
