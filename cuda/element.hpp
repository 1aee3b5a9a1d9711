// Arithmetic on one element, one source for host and device. Halves are bit patterns, converted in
// software: round to nearest even, subnormals kept. Same values as engine/half.hpp; only the
// payload of a NaN is left to the processor.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define PAPILIO_HOST_DEVICE __host__ __device__ inline
#else
#define PAPILIO_HOST_DEVICE inline
#endif
// Members read ahead of their turn: hides the latency of memory on a device.
#if defined(__CUDA_ARCH__)
#define PAPILIO_UNROLL _Pragma("unroll 4")
#else
#define PAPILIO_UNROLL
#endif

namespace papilio::cuda {

struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

// What one thread loads and stores at once: 16 bytes, the widest access of the device.
inline constexpr unsigned kPackBytes = 16;
template <class T, unsigned N>
struct alignas(N * sizeof(T)) Pack {
  T v[N];
};

// Why not std::bit_cast: it is no device function.
template <class To, class From>
PAPILIO_HOST_DEVICE To bitsAs(From value) {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, value);
}

// times, then over, like engine::Factor. The quotient is taken once, on the host: 24 bits of result
// need no second step.
struct Scale {
  double times = 1.0;
  double over = 1.0;
  double quotient = 1.0;
  bool one = true;
  Scale(double t = 1.0, double o = 1.0) : times(t), over(o), quotient(t / o), one(t == o) {}
};

PAPILIO_HOST_DEVICE float scaled(float sum, const Scale& scale) {
  return scale.one ? sum : static_cast<float>(static_cast<double>(sum) * scale.quotient);
}
PAPILIO_HOST_DEVICE double scaled(double sum, const Scale& scale) {
  return scale.one ? sum : sum * scale.times / scale.over;
}

// Sum: the type that adds. Bits and kExponent: a value is NaN or infinite when all of these bits
// are set.
template <class T>
struct Element;

template <>
struct Element<float> {
  using Sum = float;
  using Bits = std::uint32_t;
  static constexpr Bits kExponent = 0x7f800000u;
  PAPILIO_HOST_DEVICE static float load(float value) { return value; }
  PAPILIO_HOST_DEVICE static float store(float value) { return value; }
};

template <>
struct Element<double> {
  using Sum = double;
  using Bits = std::uint64_t;
  static constexpr Bits kExponent = 0x7ff0000000000000u;
  PAPILIO_HOST_DEVICE static double load(double value) { return value; }
  PAPILIO_HOST_DEVICE static double store(double value) { return value; }
};

template <>
struct Element<BFloat16> {
  using Sum = float;
  using Bits = std::uint16_t;
  static constexpr Bits kExponent = 0x7f80u;
  PAPILIO_HOST_DEVICE static float load(BFloat16 value) {
    return bitsAs<float>(static_cast<std::uint32_t>(value.bits) << 16);
  }
  PAPILIO_HOST_DEVICE static BFloat16 store(float value) {
    const auto bits = bitsAs<std::uint32_t>(value);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    return {static_cast<std::uint16_t>(nan ? 0x7fc0u : rounded >> 16)};
  }
};

template <>
struct Element<Float16> {
  using Sum = float;
  using Bits = std::uint16_t;
  static constexpr Bits kExponent = 0x7c00u;
  // The exponent is moved by an exact multiplication, which also makes subnormals normal: fewer
  // instructions than telling the cases apart.
  PAPILIO_HOST_DEVICE static float load(Float16 value) {
    const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
    const std::uint32_t magnitude = static_cast<std::uint32_t>(value.bits & 0x7fffu) << 13;
    const bool full = magnitude >= 0x0f800000u;  // infinity, NaN
    const auto moved = bitsAs<std::uint32_t>(bitsAs<float>(magnitude) * 0x1p112f);
    return bitsAs<float>(sign | (full ? magnitude + 0x70000000u : moved));
  }
  PAPILIO_HOST_DEVICE static Float16 store(float value) {
    const auto bits = bitsAs<std::uint32_t>(value);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    std::uint32_t half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    if (magnitude < 0x38800000u) {  // below the smallest normal: let the adder round
      half = bitsAs<std::uint32_t>(bitsAs<float>(magnitude) + 0.5F) - 0x3f000000u;
    }
    if (magnitude >= 0x47800000u) half = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    return {static_cast<std::uint16_t>(((bits >> 16) & 0x8000u) | half)};
  }
};

}  // namespace papilio::cuda
