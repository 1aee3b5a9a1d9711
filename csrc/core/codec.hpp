// In which form the elements of a tolerant round travel, and how many bytes that takes. The
// arithmetic is in engine/codec.hpp. Options.codec names one; which one a chunk really has follows
// from sizes alone, so nobody announces it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace papilio {

enum class Codec : std::uint8_t {
  raw = 0,  // as in the tensor
  bf16,     // 2 bytes
  fp16,     // 2 bytes, and a scale per block
  int8,     // 1 byte, and a scale per block
  // Not at all: who shares the host reads them where they are (core/reference.hpp). Asked for by
  // one collective, never by Options.codec.
  reference,
};
inline constexpr std::uint8_t kCodecLast = 4;
std::string_view name(Codec codec);

// Values that share a scale. Counted from the start of a chunk.
inline constexpr std::uint64_t kCodecBlock = 256;
inline constexpr std::uint64_t blocksOf(std::uint64_t numel) {
  return (numel + kCodecBlock - 1) / kCodecBlock;
}
// Bytes in front of the values: the scales, padded with zeros so that the values start at a
// multiple of 16, the widest access of a device.
inline constexpr std::uint64_t scaleBytes(std::uint64_t numel) {
  return (blocksOf(numel) * sizeof(float) + 15) / 16 * 16;
}

// What `numel` elements of `element_size` bytes travel as when `wanted` is asked for: raw where
// that would not make them shorter (halves, but for int8), for float64, whose users want its
// digits, and below one block: losses, counters and flags arrive exactly, and gain nothing.
// A reference is one whatever it refers to.
Codec codecFor(Codec wanted, std::size_t element_size, std::uint64_t numel);

std::uint64_t payloadBytes(Codec wanted, std::size_t element_size, std::uint64_t numel);
// The most elements, in whole blocks where there are any, whose payload fits in `bytes`.
std::uint64_t elementsWithin(Codec wanted, std::size_t element_size, std::uint64_t bytes);

}  // namespace papilio
