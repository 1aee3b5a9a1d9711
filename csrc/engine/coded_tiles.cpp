#include "engine/coded_tiles.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/clones.hpp"
#include "engine/half.hpp"

namespace papilio::engine::tile {
namespace {

constexpr std::uint32_t kMagnitude = 0x7fffffffu;
constexpr std::uint32_t kInfinity = 0x7f800000u;
constexpr std::uint32_t kNan = 0x7fc00000u;
constexpr int kNanCode = -128;
// Added to a small number it leaves the nearest integer (even, of two) in the lowest bits.
constexpr float kRound = 12582912.0F;  // 1.5 * 2^23

PAPILIO_CLONES std::uint32_t largestBits(const float* in, std::uint64_t n) {
  std::int32_t largest = 0;
  for (std::uint64_t i = 0; i < n; ++i) {
    const auto magnitude =
        static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(in[i]) & kMagnitude);
    const std::int32_t finite = magnitude < static_cast<std::int32_t>(kInfinity) ? magnitude : 0;
    largest = std::max(largest, finite);
  }
  return static_cast<std::uint32_t>(largest);
}

// The power of two for a block whose largest magnitude has these bits. Rounded to a half's digits
// first: a magnitude that rounds up to the next power of two must find the same scale again.
float fp16Scale(std::uint32_t largest) {
  const std::uint32_t exponent = (largest + 0x1000u) >> 23;
  return std::bit_cast<float>((std::max<std::uint32_t>(exponent, 15) - 14) << 23);
}

PAPILIO_CLONES void toBf16(const float* __restrict in, std::uint64_t n, BFloat16* __restrict out) {
  for (std::uint64_t i = 0; i < n; ++i) fromFloat(in[i], out[i]);
}
PAPILIO_CLONES void fromBf16(const BFloat16* __restrict in, std::uint64_t n,
                             float* __restrict out) {
  for (std::uint64_t i = 0; i < n; ++i) out[i] = toFloat(in[i]);
}
PAPILIO_CLONES void toFp16(const float* __restrict in, std::uint64_t n, float inverse,
                           Float16* __restrict out) {
  for (std::uint64_t i = 0; i < n; ++i) fromFloat(in[i] * inverse, out[i]);
}
PAPILIO_CLONES void fromFp16(const Float16* __restrict in, std::uint64_t n, float scale,
                             float* __restrict out) {
  for (std::uint64_t i = 0; i < n; ++i) out[i] = toFloat(in[i]) * scale;
}
PAPILIO_CLONES void toInt8(const float* __restrict in, std::uint64_t n, float inverse,
                           std::int8_t* __restrict out) {
  for (std::uint64_t i = 0; i < n; ++i) {
    const auto code =
        static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(in[i] * inverse + kRound));
    const bool finite = (std::bit_cast<std::uint32_t>(in[i]) & kMagnitude) < kInfinity;
    out[i] = static_cast<std::int8_t>(finite ? code : kNanCode);
  }
}
PAPILIO_CLONES void fromInt8(const std::int8_t* __restrict in, std::uint64_t n, float scale,
                             float* __restrict out) {
  for (std::uint64_t i = 0; i < n; ++i) {
    const std::int32_t code = +in[i];  // a number, not a character
    const auto value = std::bit_cast<std::uint32_t>(static_cast<float>(code) * scale);
    out[i] = std::bit_cast<float>(code == kNanCode ? kNan : value);
  }
}

template <class Block>
void eachBlock(std::uint64_t n, Block block) {
  for (std::uint64_t at = 0; at < n; at += kCodecBlock) {
    block(at, std::min(kCodecBlock, n - at), at / kCodecBlock * sizeof(float));
  }
}

}  // namespace

float int8Scale(float largest) {
  const auto bits = std::bit_cast<std::uint32_t>(largest / 127.0F) & ~0x7fu;
  return std::max(std::bit_cast<float>(bits), 0x1p-126F);
}

float largestFinite(const float* in, std::uint64_t n) {
  return std::bit_cast<float>(largestBits(in, n));
}

PAPILIO_CLONES bool anyNonFinite(const float* in, std::uint64_t n) {
  std::uint32_t found = 0;
  for (std::uint64_t i = 0; i < n; ++i) {
    found |= (std::bit_cast<std::uint32_t>(in[i]) & kInfinity) == kInfinity;
  }
  return found != 0;
}

void encode(const float* in, std::uint64_t n, const CodedAt<std::byte>& out) {
  if (out.codec == Codec::bf16) return toBf16(in, n, reinterpret_cast<BFloat16*>(out.values));
  eachBlock(n, [&](std::uint64_t at, std::uint64_t size, std::uint64_t offset) {
    const std::uint32_t largest = largestBits(in + at, size);
    float scale;
    if (out.codec == Codec::fp16) {
      scale = fp16Scale(largest);
      toFp16(in + at, size, 1.0F / scale, reinterpret_cast<Float16*>(out.values) + at);
    } else {
      scale = int8Scale(std::bit_cast<float>(largest));
      toInt8(in + at, size, 1.0F / scale, reinterpret_cast<std::int8_t*>(out.values) + at);
    }
    std::memcpy(out.scales + offset, &scale, sizeof scale);
  });
}

void decode(const CodedAt<const std::byte>& in, std::uint64_t n, float* out) {
  if (in.codec == Codec::bf16) {
    return fromBf16(reinterpret_cast<const BFloat16*>(in.values), n, out);
  }
  eachBlock(n, [&](std::uint64_t at, std::uint64_t size, std::uint64_t offset) {
    float scale;
    std::memcpy(&scale, in.scales + offset, sizeof scale);
    if (in.codec == Codec::fp16) {
      fromFp16(reinterpret_cast<const Float16*>(in.values) + at, size, scale, out + at);
    } else {
      fromInt8(reinterpret_cast<const std::int8_t*>(in.values) + at, size, scale, out + at);
    }
  });
}

}  // namespace papilio::engine::tile
