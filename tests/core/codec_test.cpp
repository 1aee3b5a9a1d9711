// Sizes of what travels, and layouts made for them.
#include "core/codec.hpp"

#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <string>

#include "core/layout.hpp"
#include "core/shape_codec.hpp"

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

std::optional<RoundShape> onceMore(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  return readShape(reader);
}

TEST(CodecOnTheWire, IsPartOfTheShapeAndItsSchema) {
  RoundShape shape;
  shape.numel = 1000;
  const auto plain = schemaOf(shape, GroupId{1}, ViewNumber{1});
  EXPECT_EQ(describe(shape).find("codec"), std::string::npos);
  for (const auto codec : kCodecs) {
    shape.codec = codec;
    std::array<std::byte, kShapeBytes> bytes;
    writeShapeTo(bytes.data(), shape);
    EXPECT_EQ(onceMore(bytes), shape);
    if (codec == Codec::raw) continue;
    EXPECT_NE(schemaOf(shape, GroupId{1}, ViewNumber{1}), plain);
    EXPECT_NE(describe(shape).find("codec=" + std::string(name(codec))), std::string::npos);
  }
}

TEST(CodecOnTheWire, WhatIsNotLegalIsRefused) {
  RoundShape shape;
  shape.numel = 1000;
  shape.codec = Codec::int8;
  std::array<std::byte, kShapeBytes> bytes;
  writeShapeTo(bytes.data(), shape);
  ASSERT_TRUE(onceMore(bytes));
  constexpr std::size_t kAt = kShapeBytes - 8;
  for (unsigned value = kCodecLast + 1; value < 256; ++value) {
    bytes[kAt] = static_cast<std::byte>(value);
    ASSERT_FALSE(onceMore(bytes)) << value;
  }
  bytes[kAt] = std::byte{1};
  for (std::size_t reserved = kAt + 1; reserved < kShapeBytes; ++reserved) {
    bytes[reserved] = std::byte{0x80};
    EXPECT_FALSE(onceMore(bytes)) << reserved;
    bytes[reserved] = std::byte{0};
  }
  // Only tolerant all-reduces of floating tensors have one.
  auto strict = shape;
  strict.strict = true;
  auto broadcast = shape;
  broadcast.kind = OpKind::broadcast;
  auto integers = shape;
  integers.dtype = DType::int32;
  for (const auto& wrong : {strict, broadcast, integers}) EXPECT_FALSE(valid(wrong));
}

}  // namespace
}  // namespace papilio
