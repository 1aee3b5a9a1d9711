// Bodies of the kernels that encode and decode (engine/codec.hpp has the formats), compiled for
// device and host. 32 lanes share a block of 256 elements; what they must know of each other, the
// block's largest magnitude, is an argument: the device gets it by a warp vote, the host by a loop.
// Encoded chunks start at multiples of 16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/codec.hpp"
#include "cuda/bodies.hpp"

namespace papilio::cuda {

inline constexpr unsigned kLanes = 32;
inline constexpr unsigned kPerLane = 8;
inline constexpr unsigned kInRow = 4;  // a lane's neighbours; the next row is 32 lanes further
static_assert(kLanes * kPerLane == kCodecBlock);

// A lane's elements, as float32; zero behind the end of the chunk.
struct LaneValues {
  float v[kPerLane];
};

// Of one lane in a chunk: which elements are its own. Rows of four, so that the 32 lanes together
// touch memory without gaps: 16 bytes each of float32, 8 of halves, 4 of int8.
struct LaneAt {
  std::uint64_t block;
  unsigned lane;
  std::uint64_t numel;
  PAPILIO_HOST_DEVICE std::uint64_t row(unsigned r) const {
    return block * kCodecBlock + (r * kLanes + lane) * kInRow;
  }
  PAPILIO_HOST_DEVICE bool whole() const { return (block + 1) * kCodecBlock <= numel; }
  PAPILIO_HOST_DEVICE std::uint64_t blocks() const {
    return (numel + kCodecBlock - 1) / kCodecBlock;
  }
};

// convert(element) of the lane's elements in an array of U. kWide: it starts at a multiple of 16,
// and all of the block is there.
template <bool kWide, class U, class Convert>
PAPILIO_HOST_DEVICE LaneValues loadLane(const void* from, const LaneAt& at, Convert convert) {
  LaneValues out{};
  const U* values = static_cast<const U*>(from);
  for (unsigned r = 0; r < kPerLane / kInRow; ++r) {
    const auto first = at.row(r);
    if constexpr (kWide) {
      const auto row = *reinterpret_cast<const Pack<U, kInRow>*>(values + first);
      for (unsigned j = 0; j < kInRow; ++j) out.v[r * kInRow + j] = convert(row.v[j]);
    } else {
      for (unsigned j = 0; j < kInRow; ++j) {
        if (first + j < at.numel) out.v[r * kInRow + j] = convert(values[first + j]);
      }
    }
  }
  return out;
}

template <bool kWide, class U, class Convert>
PAPILIO_HOST_DEVICE void storeLane(const LaneValues& in, void* to, const LaneAt& at,
                                   Convert convert) {
  U* values = static_cast<U*>(to);
  for (unsigned r = 0; r < kPerLane / kInRow; ++r) {
    const auto first = at.row(r);
    if constexpr (kWide) {
      Pack<U, kInRow> row;
      for (unsigned j = 0; j < kInRow; ++j) row.v[j] = convert(in.v[r * kInRow + j]);
      *reinterpret_cast<Pack<U, kInRow>*>(values + first) = row;
    } else {
      for (unsigned j = 0; j < kInRow; ++j) {
        if (first + j < at.numel) values[first + j] = convert(in.v[r * kInRow + j]);
      }
    }
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

template <bool kWide, Codec kCodec>
PAPILIO_HOST_DEVICE LaneValues decodeRows(const void* chunk, const LaneAt& at) {
  using F = Form<kCodec>;
  const float scale = F::kScales ? static_cast<const float*>(chunk)[at.block] : 1.0F;
  const auto* values = static_cast<const std::byte*>(chunk) + valuesAt<kCodec>(at);
  return loadLane<kWide, typename F::Value>(
      values, at, [scale](typename F::Value value) { return F::load(value, scale); });
}
template <Codec kCodec>
PAPILIO_HOST_DEVICE LaneValues decodeLane(const void* chunk, const LaneAt& at) {
  return at.whole() ? decodeRows<true, kCodec>(chunk, at) : decodeRows<false, kCodec>(chunk, at);
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
  const auto store = [inverse](float value) { return F::store(value, inverse); };
  at.whole() ? storeLane<true, typename F::Value>(in, values, at, store)
             : storeLane<false, typename F::Value>(in, values, at, store);
}

template <bool kWide, class T>
PAPILIO_HOST_DEVICE LaneValues tensorRows(const void* from, const LaneAt& at) {
  return loadLane<kWide, T>(from, at, [](T value) { return Element<T>::load(value); });
}
// `wide`: the tensor starts at a multiple of 16.
template <class T>
PAPILIO_HOST_DEVICE LaneValues loadTensor(const void* from, const LaneAt& at, bool wide) {
  return wide && at.whole() ? tensorRows<true, T>(from, at) : tensorRows<false, T>(from, at);
}
template <class T>
PAPILIO_HOST_DEVICE void storeTensor(const LaneValues& in, void* to, const LaneAt& at, bool wide) {
  const auto store = [](float value) { return Element<T>::store(value); };
  wide&& at.whole() ? storeLane<true, T>(in, to, at, store)
                    : storeLane<false, T>(in, to, at, store);
}

PAPILIO_HOST_DEVICE void addProduct(LaneValues& sum, const LaneValues& next, float weight) {
  for (unsigned j = 0; j < kPerLane; ++j) {
    const float product = next.v[j] * weight;
    sum.v[j] = sum.v[j] + product;
  }
}
// The encoded chunks of members first to end - 1; without branches between them, so that the
// device reads some ahead.
template <bool kWide, Codec kCodec>
PAPILIO_HOST_DEVICE void addChunks(LaneValues& sum, const Members& members, unsigned first,
                                   unsigned end, const LaneAt& at) {
  PAPILIO_UNROLL
  for (unsigned k = first; k < end; ++k) {
    addProduct(sum, decodeRows<kWide, kCodec>(members.data[k], at), members.weight[k]);
  }
}

// engine::reduceCoded up to the encoding: the scaled weighted sum in the order of the members,
// rounded to the tensor's type. Member `own` (members.count: none) is elements of a tensor, the
// others are encoded chunks.
template <bool kWide, class T, Codec kCodec>
PAPILIO_HOST_DEVICE LaneValues averageRows(const Members& members, unsigned own, bool wide,
                                           const Scale& scale, const LaneAt& at) {
  LaneValues sum;
  for (unsigned j = 0; j < kPerLane; ++j) sum.v[j] = -0.0F;  // plus x is x, also for -0
  const bool has_own = own < members.count;
  addChunks<kWide, kCodec>(sum, members, 0, has_own ? own : members.count, at);
  if (has_own) {
    addProduct(sum, loadTensor<T>(members.data[own], at, wide), members.weight[own]);
    addChunks<kWide, kCodec>(sum, members, own + 1, members.count, at);
  }
  for (unsigned j = 0; j < kPerLane; ++j) {
    sum.v[j] = Element<T>::load(Element<T>::store(scaled(sum.v[j], scale)));
  }
  return sum;
}
template <class T, Codec kCodec>
PAPILIO_HOST_DEVICE LaneValues averageLane(const Members& members, unsigned own, bool wide,
                                           const Scale& scale, const LaneAt& at) {
  return at.whole() ? averageRows<true, T, kCodec>(members, own, wide, scale, at)
                    : averageRows<false, T, kCodec>(members, own, wide, scale, at);
}

}  // namespace papilio::cuda
