#include "engine/codec.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>
#include <vector>

#include "engine/coded_tiles.hpp"
#include "engine/tiles.hpp"

namespace papilio::engine {
namespace {

using In = tile::CodedAt<const std::byte>;
using Out = tile::CodedAt<std::byte>;
using Floats = std::array<float, tile::kSize>;

// use(T{}) for the element type; nothing is encoded for any other (core/codec.hpp).
template <class Use>
void forElement(DType dtype, Use use) {
  switch (dtype) {
    case DType::float32: return use(float{});
    case DType::bfloat16: return use(BFloat16{});
    case DType::float16: return use(Float16{});
    default: return;
  }
}

// use(offset, size) for every tile of a chunk.
template <class Use>
void eachTile(std::uint64_t numel, Use use) {
  for (std::uint64_t at = 0; at < numel; at += tile::kSize) {
    use(at, std::min(tile::kSize, numel - at));
  }
}

// The padding behind the scales travels, and is part of the checksum.
void clearPadding(Codec codec, std::uint64_t numel, std::byte* out) {
  if (codec == Codec::bf16) return;
  const auto used = blocksOf(numel) * sizeof(float);
  std::memset(out + used, 0, scaleBytes(numel) - used);
}

// The elements as float32: where they are, or copied into `room`.
template <class T>
const float* asFloats(const T* in, std::uint64_t n, Floats& room) {
  if constexpr (std::is_same_v<T, float>) {
    return in;
  } else {
    tile::add(room.data(), in, n, 1.0F, true);
    return room.data();
  }
}

template <class T>
bool reduceTiles(Codec codec, std::span<const CodedInput> inputs, std::uint64_t numel,
                 Factor factor, std::byte* out) {
  alignas(64) Floats acc, room;
  alignas(64) std::array<T, tile::kSize> rounded;
  bool bad = false;
  eachTile(numel, [&](std::uint64_t at, std::uint64_t n) {
    bool first = true;
    for (const auto& input : inputs) {
      if (input.coded) {
        tile::decode(In(codec, input.data, numel, at), n, room.data());
        tile::add(acc.data(), room.data(), n, input.weight, first);
      } else {
        tile::add(acc.data(), reinterpret_cast<const T*>(input.data) + at, n, input.weight, first);
      }
      first = false;
    }
    const float* result = acc.data();
    if (!factor.one() || !std::is_same_v<T, float>) {
      tile::store(acc.data(), rounded.data(), n, factor.one() ? 1.0 : factor.times / factor.over);
      result = asFloats(rounded.data(), n, acc);
    }
    bad = tile::anyNonFinite(result, n) || bad;
    tile::encode(result, n, Out(codec, out, numel, at));
  });
  clearPadding(codec, numel, out);
  return bad;
}

// Of nothing the pointers may be null, which memcpy() forbids.
void copyBytes(std::byte* out, const std::byte* in, std::uint64_t bytes) {
  if (bytes != 0) std::memcpy(out, in, bytes);
}

}  // namespace

void encode(Codec codec, DType dtype, const std::byte* in, std::uint64_t numel, std::byte* out) {
  const Codec form = codecFor(codec, elementSize(dtype), numel);
  if (form == Codec::raw || form == Codec::reference) {
    return copyBytes(out, in, payloadBytes(form, elementSize(dtype), numel));
  }
  forElement(dtype, [&](auto element) {
    using T = decltype(element);
    alignas(64) Floats room;
    eachTile(numel, [&](std::uint64_t at, std::uint64_t n) {
      const float* values = asFloats(reinterpret_cast<const T*>(in) + at, n, room);
      tile::encode(values, n, Out(form, out, numel, at));
    });
  });
  clearPadding(form, numel, out);
}

void decode(Codec codec, DType dtype, const std::byte* in, std::uint64_t numel, std::byte* out) {
  const Codec form = codecFor(codec, elementSize(dtype), numel);
  if (form == Codec::raw || form == Codec::reference) {
    return copyBytes(out, in, payloadBytes(form, elementSize(dtype), numel));
  }
  forElement(dtype, [&](auto element) {
    using T = decltype(element);
    alignas(64) Floats room;
    eachTile(numel, [&](std::uint64_t at, std::uint64_t n) {
      T* to = reinterpret_cast<T*>(out) + at;
      if constexpr (std::is_same_v<T, float>) {
        tile::decode(In(form, in, numel, at), n, to);
      } else {
        tile::decode(In(form, in, numel, at), n, room.data());
        tile::store(room.data(), to, n, 1.0);
      }
    });
  });
}

void reduceCoded(Codec codec, DType dtype, std::span<const CodedInput> inputs, std::uint64_t numel,
                 Factor factor, std::byte* out, bool* bad) {
  const Codec form = codecFor(codec, elementSize(dtype), numel);
  if (form != Codec::raw) {
    return forElement(dtype, [&](auto element) {
      const bool found = reduceTiles<decltype(element)>(form, inputs, numel, factor, out);
      if (bad != nullptr) *bad = found;
    });
  }
  std::vector<ReduceInput> plain;
  plain.reserve(inputs.size());
  for (const auto& input : inputs) plain.push_back({input.data, input.weight});
  reduceWeighted(dtype, plain, numel, factor, out);
  if (bad != nullptr) *bad = hasNonFinite(dtype, out, numel);
}

bool codedNonFinite(Codec codec, DType dtype, const std::byte* in, std::uint64_t numel) {
  const Codec form = codecFor(codec, elementSize(dtype), numel);
  if (form == Codec::raw) return hasNonFinite(dtype, in, numel);
  alignas(64) Floats room;
  bool bad = false;
  eachTile(numel, [&](std::uint64_t at, std::uint64_t n) {
    tile::decode(In(form, in, numel, at), n, room.data());
    bad = tile::anyNonFinite(room.data(), n) || bad;
  });
  return bad;
}

}  // namespace papilio::engine
