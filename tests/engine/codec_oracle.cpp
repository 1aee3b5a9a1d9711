#include "engine/codec_oracle.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

namespace papilio::engine::testing {

namespace {

void put(Bytes& out, std::uint64_t at, float value) { std::memcpy(&out[at], &value, sizeof value); }

float scaleAt(const std::byte* in, std::uint64_t block) {
  float out;
  std::memcpy(&out, in + block * sizeof out, sizeof out);
  return out;
}

double largestOf(DType dtype, const std::byte* in, std::uint64_t first, std::uint64_t last) {
  double largest = 0;
  for (std::uint64_t i = first; i < last; ++i) {
    const double value = std::abs(loadFloating(dtype, in, i));
    if (std::isfinite(value)) largest = std::max(largest, value);
  }
  return largest;
}

// `value` cut or rounded to so many significant bits.
double toBits(double value, int bits, double (*rounding)(double)) {
  if (value == 0) return 0;
  int exponent;
  const double mantissa = std::frexp(value, &exponent);
  return std::ldexp(rounding(std::ldexp(mantissa, bits)), exponent - bits);
}

double scaleFor(Codec codec, double largest) {
  const double least = std::ldexp(1.0, -126);
  if (codec == Codec::int8) {
    const auto exact = static_cast<double>(static_cast<float>(largest / 127.0));
    return std::max(least, toBits(exact, 17, [](double x) { return std::floor(x); }));
  }
  if (largest == 0) return least;
  const double rounded = toBits(largest, 11, [](double x) { return std::nearbyint(x); });
  return std::max(least, std::ldexp(1.0, std::ilogb(rounded) - 14));
}

}  // namespace

Bytes encoded(Codec codec, DType dtype, const std::byte* in, std::uint64_t numel) {
  const auto size = elementSize(dtype);
  Bytes out(payloadBytes(codec, size, numel));
  const Codec form = codecFor(codec, size, numel);
  if (form == Codec::raw) {
    std::copy_n(in, out.size(), out.data());
    return out;
  }
  std::byte* values = out.data() + (form == Codec::bf16 ? 0 : scaleBytes(numel));
  float scale = 1;
  for (std::uint64_t i = 0; i < numel; ++i) {
    if (form != Codec::bf16 && i % kCodecBlock == 0) {
      const auto last = std::min(i + kCodecBlock, numel);
      scale = static_cast<float>(scaleFor(form, largestOf(dtype, in, i, last)));
      put(out, i / kCodecBlock * sizeof(float), scale);
    }
    const auto value = static_cast<float>(loadFloating(dtype, in, i));
    const float scaled = value * (1.0F / scale);
    if (form == Codec::bf16) storeFloating(DType::bfloat16, values, i, value);
    if (form == Codec::fp16) storeFloating(DType::float16, values, i, scaled);
    if (form == Codec::int8) {
      values[i] = static_cast<std::byte>(
          std::isfinite(value) ? static_cast<int>(std::nearbyint(scaled)) : -128);
    }
  }
  return out;
}

Bytes decoded(Codec codec, DType dtype, const std::byte* in, std::uint64_t numel, DType as) {
  const Codec form = codecFor(codec, elementSize(dtype), numel);
  Bytes out(numel * elementSize(as));
  const std::byte* values =
      in + (form == Codec::fp16 || form == Codec::int8 ? scaleBytes(numel) : 0);
  for (std::uint64_t i = 0; i < numel; ++i) {
    double value = 0;
    if (form == Codec::raw) value = loadFloating(dtype, in, i);
    if (form == Codec::bf16) value = loadFloating(DType::bfloat16, values, i);
    if (form == Codec::fp16) {
      value = loadFloating(DType::float16, values, i) *
              static_cast<double>(scaleAt(in, i / kCodecBlock));
    }
    if (form == Codec::int8) {
      const auto code = static_cast<std::int8_t>(values[i]);
      value =
          code == -128 ? std::nan("") : code * static_cast<double>(scaleAt(in, i / kCodecBlock));
    }
    storeFloating(as, out.data(), i, value);
  }
  return out;
}

double halfStep(Codec codec, double value, double largest) {
  const double size = std::abs(value);
  switch (codec) {
    case Codec::raw:
    case Codec::reference: return 0;
    case Codec::bf16: return std::max(std::ldexp(size, -8), std::ldexp(1.0, -134));
    case Codec::fp16:
      return std::max({std::ldexp(size, -11), std::ldexp(largest, -39), std::ldexp(1.0, -149)});
    // Half a step, what the scale was cut by, and two roundings on the way to the code.
    case Codec::int8: return std::max(largest / 254 * 1.0002, std::ldexp(1.0, -127));
  }
  return 0;
}

Bytes randomMagnitudes(DType dtype, std::uint64_t numel, unsigned seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  const int lowest = dtype == DType::float16 ? -26 : -150;
  const int highest = dtype == DType::float16 ? 14 : 125;
  Bytes out(numel * elementSize(dtype));
  int exponent = 0;
  for (std::uint64_t i = 0; i < numel; ++i) {
    if (i % kCodecBlock == 0) {
      exponent = lowest + static_cast<int>(random() % static_cast<unsigned>(highest - lowest));
    }
    const int below = random() % 3 == 0 ? static_cast<int>(random() % 30) : 0;
    storeFloating(dtype, out.data(), i, std::ldexp(normal(random), exponent - below));
  }
  return out;
}

}  // namespace papilio::engine::testing
