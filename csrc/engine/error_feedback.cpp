#include "engine/error_feedback.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "engine/codec.hpp"
#include "engine/coded_tiles.hpp"
#include "engine/tiles.hpp"

namespace papilio::engine {
namespace {

using Floats = std::array<float, tile::kSize>;
using In = tile::CodedAt<const std::byte>;
using Out = tile::CodedAt<std::byte>;

void load(DType dtype, const std::byte* data, std::uint64_t at, std::uint64_t n, float* out) {
  switch (dtype) {
    case DType::float32:
      return tile::add(out, reinterpret_cast<const float*>(data) + at, n, 1.0F, true);
    case DType::bfloat16:
      return tile::add(out, reinterpret_cast<const BFloat16*>(data) + at, n, 1.0F, true);
    case DType::float16:
      return tile::add(out, reinterpret_cast<const Float16*>(data) + at, n, 1.0F, true);
    default: return;
  }
}

// values += residual, by at most one step of each block.
void addResidual(const std::byte* residual, std::uint64_t numel, std::uint64_t at, std::uint64_t n,
                 float* values) {
  alignas(64) Floats before;
  tile::decode(In(Codec::int8, residual, numel, at), n, before.data());
  for (std::uint64_t first = 0; first < n; first += kCodecBlock) {
    const std::uint64_t end = std::min(first + kCodecBlock, n);
    const float step = tile::int8Scale(tile::largestFinite(values + first, end - first));
    for (std::uint64_t i = first; i < end; ++i) {
      values[i] += std::min(std::max(before[i], -step), step);
    }
  }
}

// use(at, n, values) for every tile of the chunk, its residual added.
template <class Use>
void eachTile(const ErrorFeedback::Source& source, const std::vector<std::byte>* residual,
              Use use) {
  alignas(64) Floats values;
  for (std::uint64_t at = 0; at < source.numel; at += tile::kSize) {
    const std::uint64_t n = std::min(tile::kSize, source.numel - at);
    load(source.shape->dtype, source.data, at, n, values.data());
    if (residual != nullptr) addResidual(residual->data(), source.numel, at, n, values.data());
    use(at, n, values.data());
  }
}

}  // namespace

ErrorFeedback::Tensor ErrorFeedback::tensorOf(const Source& source) {
  return {source.tensor, source.shape->numel, source.shape->dtype, source.shape->op};
}

const std::vector<std::byte>* ErrorFeedback::find(const Source& source) {
  const auto tensor = residuals_.find(tensorOf(source));
  if (tensor == residuals_.end()) return nullptr;
  const auto chunk = tensor->second.chunks.find(source.chunk);
  return chunk == tensor->second.chunks.end() || chunk->second.empty() ? nullptr : &chunk->second;
}

void ErrorFeedback::dropStale(Seq now) {
  for (auto it = residuals_.begin(); it != residuals_.end();) {
    if (it->second.last.value + kStaleRounds >= now.value) {
      ++it;
      continue;
    }
    bytes_ -= it->second.bytes;
    it = residuals_.erase(it);
  }
}

std::vector<std::byte>* ErrorFeedback::room(const Source& source) {
  const auto size = payloadBytes(Codec::int8, elementSize(source.shape->dtype), source.numel);
  const auto found = residuals_.find(tensorOf(source));
  const bool known = found != residuals_.end() && found->second.chunks.count(source.chunk) != 0;
  if (!known) {
    if (bytes_ + size > kMostBytes) dropStale(source.seq);
    if (bytes_ + size > kMostBytes) return nullptr;
    bytes_ += size;
  }
  Residual& residual = residuals_[tensorOf(source)];
  if (!known) residual.bytes += size;
  residual.last = source.seq;
  auto& chunk = residual.chunks[source.chunk];
  // A new one is zero: every scale and every code.
  chunk.resize(size);
  return &chunk;
}

void ErrorFeedback::encode(const Source& source, std::byte* out) {
  const auto* residual = find(source);
  if (residual == nullptr) {
    return engine::encode(Codec::int8, source.shape->dtype, source.data, source.numel, out);
  }
  eachTile(source, residual, [&](std::uint64_t at, std::uint64_t n, const float* values) {
    tile::encode(values, n, Out(Codec::int8, out, source.numel, at));
  });
  const auto used = blocksOf(source.numel) * sizeof(float);
  std::fill(out + used, out + scaleBytes(source.numel), std::byte{0});
}

void ErrorFeedback::counted(const Source& source) {
  auto* residual = room(source);
  if (residual == nullptr) return;
  alignas(64) Floats rounded;
  std::array<std::byte, tile::kSize + tile::kSize / kCodecBlock * sizeof(float) + 16> sent;
  eachTile(source, residual, [&](std::uint64_t at, std::uint64_t n, float* values) {
    tile::encode(values, n, Out(Codec::int8, sent.data(), n, 0));
    tile::decode(In(Codec::int8, sent.data(), n, 0), n, rounded.data());
    for (std::uint64_t i = 0; i < n; ++i) {
      const float rest = values[i] - rounded[i];
      values[i] = std::isfinite(rest) ? rest : 0.0F;
    }
    tile::encode(values, n, Out(Codec::int8, residual->data(), source.numel, at));
  });
}

}  // namespace papilio::engine
