// Random bytes, truncation and random numbers against the codecs and the layout.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "core/control_message.hpp"
#include "core/crc32c.hpp"
#include "core/layout.hpp"
#include "core/wire.hpp"

namespace papilio {
namespace {

// Bytes with a right magic, version, type, length and checksum, all else random: what parse() lets
// through must encode to the same bytes again.
TEST(WireProperty, WhatIsAcceptedRoundTrips) {
  std::mt19937_64 random(3);
  int accepted = 0;
  for (int i = 0; i < 60000; ++i) {
    DataHeader seed;
    seed.type = static_cast<MessageType>(1 + random() % 4);
    seed.seq = Seq{1};
    seed.schema = SchemaHash{1};
    seed.shape.numel = 1;
    EncodedHeader bytes;
    encode(seed, bytes);
    for (int change = 0; change < 3; ++change) {
      const std::size_t at = 6 + random() % (bytes.size - 6);
      bytes.bytes[at] = static_cast<std::byte>(random());
    }
    const auto view = bytes.view();
    const std::uint32_t crc = crc32c(view.subspan(64), crc32c(view.first(60)));
    std::memcpy(bytes.bytes.data() + 60, &crc, sizeof crc);
    DataHeader out;
    if (parse(bytes.view(), out) != ParseError::none) continue;
    ++accepted;
    EncodedHeader again;
    encode(out, again);
    ASSERT_EQ(again.size, bytes.size);
    ASSERT_EQ(std::memcmp(again.bytes.data(), bytes.bytes.data(), bytes.size), 0);
  }
  EXPECT_GT(accepted, 1000);
}

TEST(WireProperty, NoiseIsRejected) {
  std::mt19937_64 random(4);
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::byte> bytes(random() % 160);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random());
    DataHeader out;
    ASSERT_NE(parse(bytes, out), ParseError::none);
  }
}

TEST(ControlProperty, WhatIsAcceptedRoundTrips) {
  std::mt19937_64 random(5);
  int accepted = 0;
  for (int i = 0; i < 100000; ++i) {
    std::vector<std::byte> bytes(random() % 90);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random() % 4 == 0 ? random() : 0);
    if (bytes.size() > 4) bytes[4] = static_cast<std::byte>(random() % 14);
    const auto out = parseControl(bytes);
    if (!out) continue;
    ++accepted;
    ASSERT_EQ(encode(*out), bytes) << describe(out->body);
  }
  EXPECT_GT(accepted, 100);
}

// Every element in exactly one chunk, chunks in order, shards of nearly equal size.
TEST(LayoutProperty, RandomNumbersGiveAPartition) {
  std::mt19937_64 random(6);
  for (int i = 0; i < 3000; ++i) {
    const auto n = static_cast<std::uint32_t>(1 + random() % kMaxRanks);
    const std::size_t element = std::size_t{1} << (random() % 4);
    const std::uint64_t numel = random() % (std::uint64_t{1} << (1 + random() % 24));
    const Layout layout(numel, element, n, Seq{1 + random() % 1000});
    std::uint64_t next = 0;
    for (std::uint32_t r = 0; r < n; ++r) {
      const auto span = layout.shardChunks(Rank{r});
      for (std::uint32_t c = span.first; c < span.first + span.count; ++c) {
        ASSERT_EQ(layout.owner(ChunkIndex{c}), Rank{r});
        ASSERT_EQ(layout.range(ChunkIndex{c}).start, next);
        ASSERT_GT(layout.range(ChunkIndex{c}).size(), 0u);
        next = layout.range(ChunkIndex{c}).stop;
      }
    }
    ASSERT_EQ(next, numel) << n << " ranks, element " << element;
  }
}

}  // namespace
}  // namespace papilio
