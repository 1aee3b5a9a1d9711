// Kernels that encode and decode, and the norm; as cuda/kernels.hpp, but for this: encoded chunks
// are multiples of 16, cudaErrorInvalidValue otherwise. Where codecFor() says raw these are average
// and move.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "core/codec.hpp"
#include "core/dtype.hpp"
#include "cuda/coded_bodies.hpp"
#include "cuda/norm_bodies.hpp"

namespace papilio::cuda {

// engine::reduceCoded in one pass over memory: members in order, number `own` of them elements of a
// tensor (members.count: none), the others encoded chunks; `out` is the encoded average and
// overlaps nothing. Sets *found to 1 when the result has a NaN or an infinity, as scanNonFinite
// does.
cudaError_t averageCoded(Codec codec, DType dtype, const Members& members, unsigned own,
                         const Scale& scale, std::uint64_t numel, void* out, unsigned* found,
                         cudaStream_t stream);

// Every segment is a chunk: `from` a tensor and `to` its encoded form, or the other way round.
cudaError_t encodeSegments(Codec codec, DType dtype, std::span<const Segment> segments,
                           cudaStream_t stream);
cudaError_t decodeSegments(Codec codec, DType dtype, std::span<const Segment> segments,
                           cudaStream_t stream);

// *sum = engine::sumSquares, and *found as scanNonFinite sets it. `slices`: device memory of
// normSlices(numel) doubles. Device pointers all.
cudaError_t sumSquares(DType dtype, const void* data, std::uint64_t numel, double* slices,
                       double* sum, unsigned* found, cudaStream_t stream);

}  // namespace papilio::cuda
