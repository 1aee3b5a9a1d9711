// Bodies of the kernels that encode and decode (engine/codec.hpp has the formats), compiled for
// device and host. 32 lanes share a block of 256 elements, each has 8 in a row; what they must
// know of each other, the block's largest magnitude, is an argument: the device gets it by a warp
// vote, the host by a loop. Encoded chunks start at multiples of 16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/codec.hpp"
#include "cuda/bodies.hpp"

namespace papilio::cuda {

inline constexpr unsigned kLanes = 32;
inline constexpr unsigned kPerLane = 8;
static_assert(kLanes * kPerLane == kCodecBlock);

// A lane's elements, as float32; zero behind the end of the chunk.
struct LaneValues {
  float v[kPerLane];
};

// Of one lane in a chunk: which elements are its own.
struct LaneAt {
  std::uint64_t block;
  unsigned lane;
  std::uint64_t numel;
  PAPILIO_HOST_DEVICE std::uint64_t first() const { return block * kCodecBlock + lane * kPerLane; }
  PAPILIO_HOST_DEVICE bool whole() const { return first() + kPerLane <= numel; }
  PAPILIO_HOST_DEVICE std::uint64_t blocks() const {
    return (numel + kCodecBlock - 1) / kCodecBlock;
  }
};

// N elements at `from`, in accesses of at most 16 bytes.
template <class T>
struct alignas(16) Row {
  static constexpr unsigned kPacks = sizeof(T) * kPerLane > 16 ? sizeof(T) * kPerLane / 16 : 1;
  using Part = Pack<T, kPerLane / kPacks>;
  Part part[kPacks];
};

// convert(element) of the lane's elements in an array of U; `wide`: it starts at a multiple of 16.
template <class U, class Convert>
PAPILIO_HOST_DEVICE LaneValues loadLane(const void* from, const LaneAt& at, bool wide,
                                        Convert convert) {
  LaneValues out{};
  const U* values = static_cast<const U*>(from) + at.first();
  if (wide && at.whole()) {
    using R = Row<U>;
    for (unsigned p = 0; p < R::kPacks; ++p) {
      const auto part = reinterpret_cast<const typename R::Part*>(values)[p];
      constexpr unsigned kEach = kPerLane / R::kPacks;
      for (unsigned j = 0; j < kEach; ++j) out.v[p * kEach + j] = convert(part.v[j]);
    }
    return out;
  }
  for (unsigned j = 0; j < kPerLane; ++j) {
    if (at.first() + j < at.numel) out.v[j] = convert(values[j]);
  }
  return out;
}

template <class U, class Convert>
PAPILIO_HOST_DEVICE void storeLane(const LaneValues& in, void* to, const LaneAt& at, bool wide,
                                   Convert convert) {
  U* values = static_cast<U*>(to) + at.first();
  if (wide && at.whole()) {
    using R = Row<U>;
    for (unsigned p = 0; p < R::kPacks; ++p) {
      typename R::Part part;
      constexpr unsigned kEach = kPerLane / R::kPacks;
      for (unsigned j = 0; j < kEach; ++j) part.v[j] = convert(in.v[p * kEach + j]);
      reinterpret_cast<typename R::Part*>(values)[p] = part;
    }
    return;
  }
  for (unsigned j = 0; j < kPerLane; ++j) {
    if (at.first() + j < at.numel) values[j] = convert(in.v[j]);
  }
}

// Bits of the lane's largest finite magnitude; those of a block are the largest of its lanes'.
PAPILIO_HOST_DEVICE std::uint32_t largestBits(const LaneValues& in) {
  std::uint32_t largest = 0;
  for (unsigned j = 0; j < kPerLane; ++j) {
    const std::uint32_t magnitude = bitsAs<std::uint32_t>(in.v[j]) & 0x7fffffffu;
    if (magnitude < 0x7f800000u && magnitude > largest) largest = magnitude;
  }
  return largest;
}

PAPILIO_HOST_DEVICE bool nonFiniteLane(const LaneValues& in) {
  bool found = false;
  for (unsigned j = 0; j < kPerLane; ++j) {
    found |= (bitsAs<std::uint32_t>(in.v[j]) & 0x7f800000u) == 0x7f800000u;
  }
  return found;
}

// Form<codec>: one value of the encoded form and its scale, like engine/coded_tiles.cpp.
template <Codec kCodec>
struct Form;

template <>
struct Form<Codec::bf16> {
  using Value = BFloat16;
  static constexpr bool kScales = false;
  PAPILIO_HOST_DEVICE static float scaleOf(std::uint32_t) { return 1.0F; }
  PAPILIO_HOST_DEVICE static Value store(float value, float) {
    return Element<BFloat16>::store(value);
  }
  PAPILIO_HOST_DEVICE static float load(Value value, float) {
    return Element<BFloat16>::load(value);
  }
};

template <>
struct Form<Codec::fp16> {
  using Value = Float16;
  static constexpr bool kScales = true;
  PAPILIO_HOST_DEVICE static float scaleOf(std::uint32_t largest) {
    const std::uint32_t exponent = (largest + 0x1000u) >> 23;
    return bitsAs<float>((exponent > 15 ? exponent - 14 : 1u) << 23);
  }
  PAPILIO_HOST_DEVICE static Value store(float value, float inverse) {
    return Element<Float16>::store(value * inverse);
  }
  PAPILIO_HOST_DEVICE static float load(Value value, float scale) {
    return Element<Float16>::load(value) * scale;
  }
};

template <>
struct Form<Codec::int8> {
  using Value = std::int8_t;
  static constexpr bool kScales = true;
  PAPILIO_HOST_DEVICE static float scaleOf(std::uint32_t largest) {
    const float exact = bitsAs<float>(largest) / 127.0F;
    const float cut = bitsAs<float>(bitsAs<std::uint32_t>(exact) & ~0x7fu);
    return cut > 0x1p-126F ? cut : 0x1p-126F;
  }
  PAPILIO_HOST_DEVICE static Value store(float value, float inverse) {
    const auto code =
        static_cast<std::int32_t>(bitsAs<std::uint32_t>(value * inverse + 12582912.0F));
    const bool finite = (bitsAs<std::uint32_t>(value) & 0x7fffffffu) < 0x7f800000u;
    return static_cast<Value>(finite ? code : -128);
  }
  PAPILIO_HOST_DEVICE static float load(Value value, float scale) {
    const float number = static_cast<float>(value) * scale;
    return value == -128 ? bitsAs<float>(0x7fc00000u) : number;
  }
};

template <Codec kCodec>
PAPILIO_HOST_DEVICE std::uint64_t valuesAt(const LaneAt& at) {
  return Form<kCodec>::kScales ? (at.blocks() * sizeof(float) + 15) / 16 * 16 : 0;
}

template <Codec kCodec>
PAPILIO_HOST_DEVICE LaneValues decodeLane(const void* chunk, const LaneAt& at) {
  using F = Form<kCodec>;
  const float scale = F::kScales ? static_cast<const float*>(chunk)[at.block] : 1.0F;
  const auto* values = static_cast<const std::byte*>(chunk) + valuesAt<kCodec>(at);
  return loadLane<typename F::Value>(
      values, at, true, [scale](typename F::Value value) { return F::load(value, scale); });
}

// `largest`: of the whole block.
template <Codec kCodec>
PAPILIO_HOST_DEVICE void encodeLane(const LaneValues& in, std::uint32_t largest, const LaneAt& at,
                                    void* chunk) {
  using F = Form<kCodec>;
  const float scale = F::scaleOf(largest);
  const float inverse = 1.0F / scale;
  if (F::kScales && at.lane == 0) {
    auto* scales = static_cast<float*>(chunk);
    scales[at.block] = scale;
    if (at.block + 1 == at.blocks()) {  // the padding travels too
      for (std::uint64_t pad = at.blocks(); pad % 4 != 0; ++pad) scales[pad] = 0.0F;
    }
  }
  auto* values = static_cast<std::byte*>(chunk) + valuesAt<kCodec>(at);
  storeLane<typename F::Value>(in, values, at, true,
                               [inverse](float value) { return F::store(value, inverse); });
}

template <class T>
PAPILIO_HOST_DEVICE LaneValues loadTensor(const void* from, const LaneAt& at, bool wide) {
  return loadLane<T>(from, at, wide, [](T value) { return Element<T>::load(value); });
}
template <class T>
PAPILIO_HOST_DEVICE void storeTensor(const LaneValues& in, void* to, const LaneAt& at, bool wide) {
  storeLane<T>(in, to, at, wide, [](float value) { return Element<T>::store(value); });
}

// engine::reduceCoded up to the encoding: the scaled weighted sum in the order of the members,
// rounded to the tensor's type. Member `own` (members.count: none) is elements of a tensor, the
// others are encoded chunks.
template <class T, Codec kCodec>
PAPILIO_HOST_DEVICE LaneValues averageLane(const Members& members, unsigned own, bool wide,
                                           const Scale& scale, const LaneAt& at) {
  LaneValues sum{};
  PAPILIO_ROLLED
  for (unsigned k = 0; k < members.count; ++k) {
    const LaneValues next = k == own ? loadTensor<T>(members.data[k], at, wide)
                                     : decodeLane<kCodec>(members.data[k], at);
    const float weight = members.weight[k];
    for (unsigned j = 0; j < kPerLane; ++j) {
      const float product = next.v[j] * weight;
      sum.v[j] = k == 0 ? product : sum.v[j] + product;
    }
  }
  for (unsigned j = 0; j < kPerLane; ++j) {
    sum.v[j] = Element<T>::load(Element<T>::store(scaled(sum.v[j], scale)));
  }
  return sum;
}

}  // namespace papilio::cuda
