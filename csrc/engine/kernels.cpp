#include "engine/kernels.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "engine/clones.hpp"
#include "engine/half.hpp"
#include "engine/tiles.hpp"

namespace papilio::engine {
namespace tile {

#define PAPILIO_ACCUMULATE(Name, Acc, T, Load)                                           \
  PAPILIO_CLONES void Name(Acc* __restrict acc, const T* __restrict in, std::uint64_t n, \
                           Acc weight, bool first) {                                     \
    if (first && weight == Acc{1}) {                                                     \
      for (std::uint64_t i = 0; i < n; ++i) acc[i] = Load;                               \
    } else if (first) {                                                                  \
      for (std::uint64_t i = 0; i < n; ++i) acc[i] = (Load) * weight;                    \
    } else if (weight == Acc{1}) {                                                       \
      for (std::uint64_t i = 0; i < n; ++i) acc[i] += Load;                              \
    } else {                                                                             \
      for (std::uint64_t i = 0; i < n; ++i) acc[i] += (Load) * weight;                   \
    }                                                                                    \
  }

PAPILIO_ACCUMULATE(add, float, float, in[i])
PAPILIO_ACCUMULATE(add, float, BFloat16, toFloat(in[i]))
PAPILIO_ACCUMULATE(add, float, Float16, toFloat(in[i]))
PAPILIO_ACCUMULATE(add, double, double, in[i])

PAPILIO_CLONES void store(const float* acc, float* out, std::uint64_t n, double factor) {
  for (std::uint64_t i = 0; i < n; ++i) {
    out[i] = static_cast<float>(static_cast<double>(acc[i]) * factor);
  }
}
PAPILIO_CLONES void store(const float* acc, BFloat16* out, std::uint64_t n, double factor) {
  for (std::uint64_t i = 0; i < n; ++i) {
    fromFloat(static_cast<float>(static_cast<double>(acc[i]) * factor), out[i]);
  }
}
PAPILIO_CLONES void store(const float* acc, Float16* out, std::uint64_t n, double factor) {
  for (std::uint64_t i = 0; i < n; ++i) {
    fromFloat(static_cast<float>(static_cast<double>(acc[i]) * factor), out[i]);
  }
}
PAPILIO_CLONES void store(const double* acc, double* out, std::uint64_t n, Factor factor) {
  for (std::uint64_t i = 0; i < n; ++i) out[i] = acc[i] * factor.times / factor.over;
}

}  // namespace tile

namespace {

template <class T, class Acc>
void weighted(std::span<const ReduceInput> inputs, std::uint64_t numel, Factor factor,
              std::byte* out) {
  alignas(64) std::array<Acc, tile::kSize> acc;
  for (std::uint64_t at = 0; at < numel; at += tile::kSize) {
    const std::uint64_t n = std::min(tile::kSize, numel - at);
    bool first = true;
    for (const auto& input : inputs) {
      tile::add(acc.data(), reinterpret_cast<const T*>(input.data) + at, n,
                static_cast<Acc>(input.weight), first);
      first = false;
    }
    auto* to = reinterpret_cast<T*>(out) + at;
    if constexpr (std::is_same_v<T, Acc>) {
      if (factor.one()) {
        std::memcpy(to, acc.data(), n * sizeof(T));
        continue;
      }
    }
    if constexpr (std::is_same_v<Acc, double>) {
      tile::store(acc.data(), to, n, factor);
    } else {  // far more digits than the result has: one multiplication does
      tile::store(acc.data(), to, n, factor.times / factor.over);
    }
  }
}

// Lanes and the elements of a slice: cuda/norm_bodies.hpp.
constexpr std::uint64_t kNormLanes = 256;
constexpr std::uint64_t kNormSlice = 2048;

#define PAPILIO_ADD_SQUARES(T, Load)                                               \
  PAPILIO_CLONES void addSquares(double* __restrict lanes, const T* __restrict in, \
                                 std::uint64_t n) {                                \
    for (std::uint64_t i = 0; i < n; ++i) {                                        \
      const auto value = static_cast<double>(Load);                                \
      lanes[i] += value * value;                                                   \
    }                                                                              \
  }
PAPILIO_ADD_SQUARES(float, in[i])
PAPILIO_ADD_SQUARES(double, in[i])
PAPILIO_ADD_SQUARES(BFloat16, toFloat(in[i]))
PAPILIO_ADD_SQUARES(Float16, toFloat(in[i]))

double joinLanes(std::array<double, kNormLanes>& lanes) {
  for (std::uint64_t half = kNormLanes / 2; half > 0; half /= 2) {
    for (std::uint64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

template <class T>
double squares(const T* values, std::uint64_t numel) {
  std::array<double, kNormLanes> slices{};
  for (std::uint64_t at = 0; at < numel; at += kNormSlice) {
    std::array<double, kNormLanes> lanes{};
    const std::uint64_t end = std::min(at + kNormSlice, numel);
    for (std::uint64_t i = at; i < end; i += kNormLanes) {
      addSquares(lanes.data(), values + i, std::min(kNormLanes, end - i));
    }
    slices[at / kNormSlice % kNormLanes] += joinLanes(lanes);
  }
  return joinLanes(slices);
}

#define PAPILIO_ANY_FULL(T)                                                   \
  PAPILIO_CLONES bool anyFull(const T* values, std::uint64_t numel, T mask) { \
    T found = 0;                                                              \
    for (std::uint64_t i = 0; i < numel; ++i) {                               \
      found = static_cast<T>(found | ((values[i] & mask) == mask));           \
    }                                                                         \
    return found != 0;                                                        \
  }

PAPILIO_ANY_FULL(std::uint16_t)
PAPILIO_ANY_FULL(std::uint32_t)
PAPILIO_ANY_FULL(std::uint64_t)

template <class T>
bool anyExponentFull(const std::byte* data, std::uint64_t numel, T mask) {
  return anyFull(reinterpret_cast<const T*>(data), numel, mask);
}

}  // namespace

void reduceWeighted(DType dtype, std::span<const ReduceInput> inputs, std::uint64_t numel,
                    Factor factor, std::byte* out) {
  switch (dtype) {
    case DType::float32: return weighted<float, float>(inputs, numel, factor, out);
    case DType::bfloat16: return weighted<BFloat16, float>(inputs, numel, factor, out);
    case DType::float16: return weighted<Float16, float>(inputs, numel, factor, out);
    case DType::float64: return weighted<double, double>(inputs, numel, factor, out);
    default: return;  // the machine admits only floating types here
  }
}

void scale(DType dtype, std::byte* data, std::uint64_t numel, Factor factor) {
  if (factor.one()) return;
  const ReduceInput self{data, 1.0F};
  reduceWeighted(dtype, {&self, 1}, numel, factor, data);
}

double sumSquares(DType dtype, const std::byte* data, std::uint64_t numel) {
  switch (dtype) {
    case DType::float32: return squares(reinterpret_cast<const float*>(data), numel);
    case DType::bfloat16: return squares(reinterpret_cast<const BFloat16*>(data), numel);
    case DType::float16: return squares(reinterpret_cast<const Float16*>(data), numel);
    case DType::float64: return squares(reinterpret_cast<const double*>(data), numel);
    default: return 0.0;
  }
}

bool hasNonFinite(DType dtype, const std::byte* data, std::uint64_t numel) {
  switch (dtype) {
    case DType::float32: return anyExponentFull<std::uint32_t>(data, numel, 0x7f800000u);
    case DType::bfloat16: return anyExponentFull<std::uint16_t>(data, numel, 0x7f80u);
    case DType::float16: return anyExponentFull<std::uint16_t>(data, numel, 0x7c00u);
    case DType::float64: return anyExponentFull<std::uint64_t>(data, numel, 0x7ff0000000000000u);
    default: return false;
  }
}

}  // namespace papilio::engine
