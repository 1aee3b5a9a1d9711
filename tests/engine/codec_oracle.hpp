// The codecs again, one element at a time in double precision, from the words of engine/codec.hpp.
#pragma once

#include "core/codec.hpp"
#include "engine/oracle.hpp"

namespace papilio::engine::testing {

inline constexpr Codec kCodecs[] = {Codec::raw, Codec::bf16, Codec::fp16, Codec::int8};

Bytes encoded(Codec codec, DType dtype, const std::byte* in, std::uint64_t numel);
// Elements of `as`: the tensor's type, or float32 for what a reducer adds up.
Bytes decoded(Codec codec, DType dtype, const std::byte* in, std::uint64_t numel, DType as);
inline Bytes decoded(Codec codec, DType dtype, const Bytes& in, std::uint64_t numel) {
  return decoded(codec, dtype, in.data(), numel, dtype);
}
// Half of what one step of the codec is worth at an element, given the block's largest magnitude.
double halfStep(Codec codec, double value, double largest);
// Random values of every magnitude that `dtype` has, subnormals too; each block around one of them.
Bytes randomMagnitudes(DType dtype, std::uint64_t numel, unsigned seed);

}  // namespace papilio::engine::testing
