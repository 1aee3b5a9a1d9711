// float16 and bfloat16 as bit patterns, converted in software: round to nearest even, like torch.
#pragma once

#include <bit>
#include <cstdint>

namespace papilio::engine {

struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

inline float toFloat(BFloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

inline void fromFloat(float value, BFloat16& out) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  out.bits = static_cast<std::uint16_t>(nan ? 0x7fc0u : rounded >> 16);
}

// Every case is computed and one is chosen: loops over them have no branch and are vectorized.
inline float toFloat(Float16 value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = static_cast<std::uint32_t>(value.bits & 0x7fffu) << 13;
  // Zero, subnormal: exact difference of two normal numbers.
  const float tiny =
      std::bit_cast<float>(magnitude + 0x38800000u) - std::bit_cast<float>(0x38800000u);
  std::uint32_t bits = magnitude + 0x38000000u;
  bits = magnitude < 0x00800000u ? std::bit_cast<std::uint32_t>(tiny) : bits;
  bits = magnitude >= 0x0f800000u ? magnitude + 0x70000000u : bits;  // infinity, NaN
  return std::bit_cast<float>(sign | bits);
}

inline void fromFloat(float value, Float16& out) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  // Below the smallest normal: let the adder round.
  const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
  const std::uint32_t tiny = std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u;
  const std::uint32_t full = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  std::uint32_t half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  half = magnitude < 0x38800000u ? tiny : half;
  half = magnitude >= 0x47800000u ? full : half;  // 65536 and more, infinity, NaN
  out.bits = static_cast<std::uint16_t>(sign | half);
}

inline float toFloat(float value) { return value; }
inline void fromFloat(float value, float& out) { out = value; }

}  // namespace papilio::engine
