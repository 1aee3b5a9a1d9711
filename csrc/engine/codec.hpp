// The codecs of tolerant rounds on host memory: pure functions, the same bits on every processor.
// A chunk of `numel` elements of a floating type travels in payloadBytes() (core/codec.hpp) bytes:
//
//   raw   the elements
//   bf16  bfloat16, rounded to nearest even
//   fp16  [scales][float16 values]: x / scale rounded to nearest even. The scale is the power of
//         two that puts the block's largest magnitude between 2^14 and 2^15.
//   int8  [scales][codes -127 … 127]: x / scale rounded to nearest. The scale is the block's
//         largest magnitude / 127, cut to 17 significant bits (and at least 2^-126), so that
//         code * scale is exact in float32. Code -128 is a NaN.
//
// Largest magnitudes are those of the finite elements; NaN and infinity travel as themselves (int8:
// both as NaN) and spoil no other element. Decoding what an encoded tensor was decoded to gives the
// same bits again, so a rank may pass on a result from its tensor. Bytes from the wire may hold any
// scale: all of them decode to numbers, and what is not finite is seen by codedNonFinite().
// A reference is copied as it is, whole tables on both sides.
// Floating types only. The error is at most half a unit: of bfloat16, of float16 (at most 2^-39 of
// the block's largest magnitude for tiny elements), of the int8 scale (1/254 of that magnitude).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/codec.hpp"
#include "core/dtype.hpp"
#include "engine/kernels.hpp"

namespace papilio::engine {

// A chunk, in the form that codecFor() says.
void encode(Codec codec, DType dtype, const std::byte* in, std::uint64_t numel, std::byte* out);
void decode(Codec codec, DType dtype, const std::byte* in, std::uint64_t numel, std::byte* out);

struct CodedInput {
  const std::byte* data = nullptr;
  float weight = 1.0F;
  bool coded = true;  // false: elements of the tensor
};

// out = encode(factor * sum_k weight_k * in_k), k in the order given, in one pass: accumulated in
// float32 like reduceWeighted(), rounded once to the tensor's type, then encoded. `out` overlaps no
// input. `bad`, unless it is null: whether there is a NaN or an infinity in the result.
void reduceCoded(Codec codec, DType dtype, std::span<const CodedInput> inputs, std::uint64_t numel,
                 Factor factor, std::byte* out, bool* bad = nullptr);

// Is there a NaN or an infinity in what these bytes decode to?
bool codedNonFinite(Codec codec, DType dtype, const std::byte* in, std::uint64_t numel);

}  // namespace papilio::engine
