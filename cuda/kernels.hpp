// Kernels on raw device pointers of the current device, enqueued on `stream`; nothing here waits.
// All pointers are multiples of the element size; multiples of 16 bytes are read and written 16
// bytes at a time. Floating types only. Thread-safe. Returns what the launch returned;
// cudaErrorInvalidValue, with nothing enqueued, for a dtype that is not floating or a count out of
// range. The memory must stay valid until the stream has passed.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "core/dtype.hpp"
#include "cuda/bodies.hpp"

namespace papilio::cuda {

// out[i] = scale * sum_k weight_k * in_k[i] in the order of the members: engine::reduceWeighted in
// one pass over memory. `out` may be one of the inputs.
cudaError_t average(DType dtype, const Members& members, const Scale& scale, std::uint64_t numel,
                    void* out, cudaStream_t stream);

// Sets *found (device memory) to 1 when there is a NaN or an infinity and leaves it alone
// otherwise, so that several scans may share it; the caller clears it.
cudaError_t scanNonFinite(DType dtype, const void* data, std::uint64_t numel, unsigned* found,
                          cudaStream_t stream);

// Copies every segment, times `scale`: tensors into a slab (pack), or a slab into tensors (unpack).
// One launch per 128 segments.
cudaError_t move(DType dtype, std::span<const Segment> segments, const Scale& scale,
                 cudaStream_t stream);

}  // namespace papilio::cuda
