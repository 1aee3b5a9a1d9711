// Sizes of what travels, and layouts made for them.
#include "core/codec.hpp"

#include <gtest/gtest.h>

#include "core/layout.hpp"

namespace papilio {
namespace {

constexpr Codec kCodecs[] = {Codec::raw, Codec::bf16, Codec::fp16, Codec::int8};

TEST(CodecSizes, NothingTravelsLongerThanItIs) {
  for (const auto codec : kCodecs) {
    for (const std::size_t element : {2u, 4u, 8u}) {
      for (std::uint64_t numel = 0; numel < 3000; ++numel) {
        ASSERT_LE(payloadBytes(codec, element, numel), numel * element);
      }
    }
  }
  EXPECT_EQ(payloadBytes(Codec::bf16, 4, 1000), 2000u);
  EXPECT_EQ(payloadBytes(Codec::fp16, 4, 1000), 2016u);
  EXPECT_EQ(payloadBytes(Codec::int8, 4, 1000), 1016u);
  EXPECT_EQ(payloadBytes(Codec::int8, 2, 1025), 32u + 1025u);
}

TEST(CodecSizes, RawWhereACodecWouldNotHelp) {
  for (const auto codec : kCodecs) {
    EXPECT_EQ(codecFor(codec, 8, 1000), Codec::raw);
    EXPECT_EQ(codecFor(codec, 4, 255), Codec::raw);
    EXPECT_EQ(codecFor(codec, 4, 256), codec);
  }
  EXPECT_EQ(codecFor(Codec::bf16, 2, 1000), Codec::raw);
  EXPECT_EQ(codecFor(Codec::fp16, 2, 1000), Codec::raw);
  EXPECT_EQ(codecFor(Codec::int8, 2, 1000), Codec::int8);
}

TEST(CodecSizes, ElementsWithinFillTheBytes) {
  for (const auto codec : kCodecs) {
    for (const std::size_t element : {2u, 4u, 8u}) {
      for (const std::uint64_t bytes : {64u << 10, 128u << 10, 256u << 10}) {
        const auto most = elementsWithin(codec, element, bytes);
        ASSERT_LE(payloadBytes(codec, element, most), bytes);
        ASSERT_GT(payloadBytes(codec, element, most + kCodecBlock), bytes);
      }
    }
  }
}

TEST(CodecSizes, ChunksAreSizedByWhatTravels) {
  for (const auto codec : kCodecs) {
    for (const std::uint32_t n : {2u, 4u, 20u, 64u}) {
      for (const std::uint64_t numel : {1ull, 20'000ull, 70'001ull, 1'000'003ull, 9'000'000ull}) {
        const Layout layout(numel, 4, n, Seq{numel}, {}, codec);
        std::uint64_t next = 0;
        for (std::uint32_t c = 0; c < layout.chunkCount(); ++c) {
          const ChunkIndex chunk{c};
          if (layout.range(chunk).size() == 0)
            continue;  // of a shard that the tensor is too short for
          ASSERT_LE(layout.payload(chunk), maxChunkBytes(n)) << name(codec);
          ASSERT_EQ(layout.bytes(chunk), layout.range(chunk).size() * 4);
          ASSERT_EQ(layout.range(chunk).start, next);
          next = layout.range(chunk).stop;
        }
        ASSERT_EQ(next, numel);
      }
    }
  }
  // A quarter of the bytes, a quarter of the messages.
  const Layout raw(16 << 20, 4, 4, Seq{1});
  const Layout coded(16 << 20, 4, 4, Seq{1}, {}, Codec::int8);
  EXPECT_EQ(raw.chunkCount(), 256u);
  EXPECT_EQ(coded.chunkCount(), 68u);
}

}  // namespace
}  // namespace papilio
