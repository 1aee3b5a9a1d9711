// What every message costs before and after its payload: CRC, header, layout.
#include <benchmark/benchmark.h>

#include <vector>

#include "core/crc32c.hpp"
#include "core/layout.hpp"
#include "core/wire.hpp"

namespace papilio {
namespace {

using Buffer = std::vector<std::byte>;

template <class Fn>
void overBytes(benchmark::State& state, Fn fn) {
  const Buffer from(static_cast<std::size_t>(state.range(0)), std::byte{0x5A});
  Buffer to(from.size());
  for (auto _ : state) {
    benchmark::DoNotOptimize(fn(to, from));
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

void crc(benchmark::State& state) {
  overBytes(state, [](Buffer&, const Buffer& from) { return crc32c(from); });
}
void crcPortable(benchmark::State& state) {
  overBytes(state, [](Buffer&, const Buffer& from) { return crc32cPortable(from); });
}
void copyWithCrc(benchmark::State& state) {
  overBytes(state, [](Buffer& to, const Buffer& from) { return copyWithCrc32c(to.data(), from); });
}
BENCHMARK(crc)->Arg(60)->Arg(4 << 10)->Arg(256 << 10)->Arg(16 << 20);
BENCHMARK(crcPortable)->Arg(256 << 10);
BENCHMARK(copyWithCrc)->Arg(4 << 10)->Arg(256 << 10)->Arg(16 << 20);

DataHeader sample(MessageType type) {
  DataHeader header;
  header.type = type;
  header.group = GroupId{77};
  header.incarnation = Incarnation{3};
  header.view = ViewNumber{1};
  header.src = Rank{2};
  header.seq = Seq{118};
  header.shape.numel = 1 << 24;
  header.schema = schemaOf(header.shape, header.group, header.view);
  header.chunk = ChunkIndex{5};
  header.payload_bytes = 256 << 10;
  if (type == MessageType::result) {
    header.contributors = ContributorSet::firstN(4);
    header.weight_sum = 4;
  }
  return header;
}

void encodeHeader(benchmark::State& state, MessageType type) {
  const DataHeader header = sample(type);
  EncodedHeader out;
  for (auto _ : state) {
    encode(header, out);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations());
}
void parseHeader(benchmark::State& state, MessageType type) {
  EncodedHeader encoded;
  encode(sample(type), encoded);
  DataHeader out;
  for (auto _ : state) {
    const ParseError error = parse(encoded.view(), out);
    if (error != ParseError::none) state.SkipWithError(name(error));
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK_CAPTURE(encodeHeader, contribution, MessageType::contribution);
BENCHMARK_CAPTURE(encodeHeader, result, MessageType::result);
BENCHMARK_CAPTURE(parseHeader, contribution, MessageType::contribution);
BENCHMARK_CAPTURE(parseHeader, result, MessageType::result);

// A layout and a walk over all its chunks.
void layoutWalk(benchmark::State& state) {
  std::uint64_t seq = 0;
  std::uint32_t chunks = 0;
  for (auto _ : state) {
    const Layout layout(static_cast<std::uint64_t>(state.range(0)), 4, 8, Seq{++seq});
    chunks = layout.chunkCount();
    for (std::uint32_t c = 0; c < chunks; ++c) {
      benchmark::DoNotOptimize(layout.range(ChunkIndex{c}));
      benchmark::DoNotOptimize(layout.owner(ChunkIndex{c}));
    }
  }
  state.counters["chunks"] = chunks;
  state.SetItemsProcessed(state.iterations() * chunks);
}
BENCHMARK(layoutWalk)->ArgName("numel")->Arg(256)->Arg(1 << 20)->Arg(1 << 24);

}  // namespace
}  // namespace papilio
