// Reduce kernels beside memcpy of the same amount of memory traffic, in the same run: the reduction
// of n inputs reads n * bytes and writes bytes, so bytes/s counts (n + 1) * bytes; memcpy counts 2.
#include <benchmark/benchmark.h>

#include <cstring>
#include <random>
#include <vector>

#include "engine/kernels.hpp"

namespace papilio {
namespace {

using Buffer = std::vector<std::byte>;

Buffer values(DType dtype, std::uint64_t numel, unsigned seed) {
  Buffer out(numel * elementSize(dtype));
  std::mt19937 random(seed);
  if (dtype == DType::float32) {
    for (std::uint64_t i = 0; i < numel; ++i) {
      const auto value = static_cast<float>(random() % 64);
      std::memcpy(out.data() + i * 4, &value, 4);
    }
    return out;
  }
  if (dtype == DType::float64) {
    for (std::uint64_t i = 0; i < numel; ++i) {
      const auto value = static_cast<double>(random() % 64);
      std::memcpy(out.data() + i * 8, &value, 8);
    }
    return out;
  }
  // 16-bit floats: a byte pattern that is finite in both formats.
  for (auto& byte : out) byte = static_cast<std::byte>(0x3C);
  return out;
}

struct Inputs {
  Inputs(DType dtype, std::int64_t bytes, std::int64_t n)
      : numel(static_cast<std::uint64_t>(bytes) / elementSize(dtype)) {
    for (std::int64_t k = 0; k < n; ++k) {
      buffers.push_back(values(dtype, numel, static_cast<unsigned>(k)));
    }
    out.resize(static_cast<std::size_t>(bytes));
  }
  std::uint64_t numel;
  std::vector<Buffer> buffers;
  Buffer out;
};

void memcpyReference(benchmark::State& state) {
  Buffer from(static_cast<std::size_t>(state.range(0)), std::byte{1}), to(from.size());
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.size());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * 2 * state.range(0));
}
BENCHMARK(memcpyReference)->Arg(64 << 10)->Arg(256 << 10)->Arg(16 << 20);

void reduceWeighted(benchmark::State& state, DType dtype, double factor) {
  Inputs inputs(dtype, state.range(0), state.range(1));
  std::vector<engine::ReduceInput> views;
  for (const auto& buffer : inputs.buffers) views.push_back({buffer.data(), 1.0F});
  for (auto _ : state) {
    engine::reduceWeighted(dtype, views, inputs.numel, factor, inputs.out.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * state.range(0) * (state.range(1) + 1));
}
void chunksByPeers(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"bytes", "inputs"});
  for (const int inputs : {2, 4, 8}) bench->Args({256 << 10, inputs});
  bench->Args({16 << 20, 4});
}
BENCHMARK_CAPTURE(reduceWeighted, float32_sum, DType::float32, 1.0)->Apply(chunksByPeers);
BENCHMARK_CAPTURE(reduceWeighted, float32_avg, DType::float32, 0.25)->Apply(chunksByPeers);
BENCHMARK_CAPTURE(reduceWeighted, float64_sum, DType::float64, 1.0)->Apply(chunksByPeers);
BENCHMARK_CAPTURE(reduceWeighted, bfloat16_sum, DType::bfloat16, 1.0)->Apply(chunksByPeers);
BENCHMARK_CAPTURE(reduceWeighted, float16_sum, DType::float16, 1.0)->Apply(chunksByPeers);

void reduceStrict(benchmark::State& state, DType dtype, ReduceOp op) {
  Inputs inputs(dtype, state.range(0), state.range(1));
  std::vector<const std::byte*> views;
  for (const auto& buffer : inputs.buffers) views.push_back(buffer.data());
  for (auto _ : state) {
    engine::reduceStrict(dtype, op, views, inputs.numel, 1.0, inputs.out.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * state.range(0) * (state.range(1) + 1));
}
BENCHMARK_CAPTURE(reduceStrict, float32_max, DType::float32, ReduceOp::max)
    ->ArgNames({"bytes", "inputs"})
    ->Args({256 << 10, 4});
BENCHMARK_CAPTURE(reduceStrict, int32_sum, DType::int32, ReduceOp::sum)
    ->ArgNames({"bytes", "inputs"})
    ->Args({256 << 10, 4});

void hasNonFinite(benchmark::State& state, DType dtype) {
  Inputs inputs(dtype, state.range(0), 1);
  for (auto _ : state) {
    benchmark::DoNotOptimize(engine::hasNonFinite(dtype, inputs.buffers[0].data(), inputs.numel));
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK_CAPTURE(hasNonFinite, float32, DType::float32)->Arg(256 << 10);
BENCHMARK_CAPTURE(hasNonFinite, bfloat16, DType::bfloat16)->Arg(256 << 10);

}  // namespace
}  // namespace papilio
