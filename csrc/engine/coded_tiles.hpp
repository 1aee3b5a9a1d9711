// The inner loops of the codecs: float32 to the encoded form and back, one tile at a time. A tile
// starts at a multiple of kCodecBlock elements of its chunk.
#pragma once

#include <cstdint>

#include "core/codec.hpp"

namespace papilio::engine::tile {

// Where the encoded form of the elements from `at` on lies in a chunk of `numel`.
template <class Byte>  // std::byte, const or not
struct CodedAt {
  CodedAt(Codec kind, Byte* chunk, std::uint64_t numel, std::uint64_t at)
      : codec(kind),
        scales(chunk + blocksOf(at) * sizeof(float)),
        values(chunk + (kind == Codec::bf16 ? 0 : scaleBytes(numel)) +
               at * (kind == Codec::int8 ? 1 : 2)) {}
  Codec codec;
  Byte* scales;
  Byte* values;
};

void encode(const float* in, std::uint64_t n, const CodedAt<std::byte>& out);
void decode(const CodedAt<const std::byte>& in, std::uint64_t n, float* out);

// The scale of int8 for a block with this largest magnitude.
float int8Scale(float largest);
// The largest finite magnitude of a block.
float largestFinite(const float* in, std::uint64_t n);
bool anyNonFinite(const float* in, std::uint64_t n);

}  // namespace papilio::engine::tile
