// The codecs beside memcpy of a chunk, in the same run. bytes/s counts tensor bytes read or written
// plus encoded ones, so it can be read beside memcpy's; items/s counts elements.
#include <benchmark/benchmark.h>

#include <cstring>
#include <random>
#include <vector>

#include "engine/codec.hpp"

namespace papilio {
namespace {

constexpr std::uint64_t kNumel = 64 << 10;  // a chunk of 256 KiB as float32

std::vector<std::byte> gradient(unsigned seed) {
  std::vector<std::byte> out(kNumel * sizeof(float));
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (std::uint64_t i = 0; i < kNumel; ++i) {
    const float value = normal(random);
    std::memcpy(&out[i * sizeof value], &value, sizeof value);
  }
  return out;
}

std::vector<std::byte> coded(Codec codec, const std::vector<std::byte>& in) {
  std::vector<std::byte> out(payloadBytes(codec, sizeof(float), kNumel));
  engine::encode(codec, DType::float32, in.data(), kNumel, out.data());
  return out;
}

void count(benchmark::State& state, std::size_t bytes) {
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(bytes));
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(kNumel));
}

void memcpyChunk(benchmark::State& state) {
  const auto from = gradient(1);
  auto to = from;
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.size());
    benchmark::ClobberMemory();
  }
  count(state, 2 * from.size());
}
BENCHMARK(memcpyChunk);

void encodeChunk(benchmark::State& state, Codec codec) {
  const auto from = gradient(1);
  auto to = coded(codec, from);
  for (auto _ : state) {
    engine::encode(codec, DType::float32, from.data(), kNumel, to.data());
    benchmark::ClobberMemory();
  }
  count(state, from.size() + to.size());
}
void decodeChunk(benchmark::State& state, Codec codec) {
  auto to = gradient(1);
  const auto from = coded(codec, to);
  for (auto _ : state) {
    engine::decode(codec, DType::float32, from.data(), kNumel, to.data());
    benchmark::ClobberMemory();
  }
  count(state, from.size() + to.size());
}
// A reducer's work on one chunk: its own elements, the encoded ones of the others, one result.
void reduceChunk(benchmark::State& state, Codec codec) {
  const auto members = static_cast<std::size_t>(state.range(0));
  const auto own = gradient(0);
  std::vector<std::vector<std::byte>> others;
  std::vector<engine::CodedInput> inputs{{own.data(), 1.0F, false}};
  for (unsigned k = 1; k < members; ++k) others.push_back(coded(codec, gradient(k)));
  for (const auto& other : others) inputs.push_back({other.data(), 1.0F, true});
  auto out = coded(codec, own);
  for (auto _ : state) {
    bool bad = false;
    engine::reduceCoded(codec, DType::float32, inputs, kNumel, 1.0 / static_cast<double>(members),
                        out.data(), &bad);
    benchmark::DoNotOptimize(bad);
    benchmark::ClobberMemory();
  }
  count(state, own.size() + members * out.size());
}

#define PAPILIO_PER_CODEC(Name)               \
  BENCHMARK_CAPTURE(Name, raw, Codec::raw);   \
  BENCHMARK_CAPTURE(Name, bf16, Codec::bf16); \
  BENCHMARK_CAPTURE(Name, fp16, Codec::fp16); \
  BENCHMARK_CAPTURE(Name, int8, Codec::int8)
PAPILIO_PER_CODEC(encodeChunk);
PAPILIO_PER_CODEC(decodeChunk);
BENCHMARK_CAPTURE(reduceChunk, raw, Codec::raw)->ArgName("members")->Arg(4);
BENCHMARK_CAPTURE(reduceChunk, bf16, Codec::bf16)->ArgName("members")->Arg(4);
BENCHMARK_CAPTURE(reduceChunk, fp16, Codec::fp16)->ArgName("members")->Arg(4);
BENCHMARK_CAPTURE(reduceChunk, int8, Codec::int8)->ArgName("members")->Arg(4);

}  // namespace
}  // namespace papilio
