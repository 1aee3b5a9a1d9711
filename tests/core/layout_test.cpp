// The layout is a partition: every element in exactly one chunk, whatever the numbers.
#include "core/layout.hpp"

#include <gtest/gtest.h>

#include <set>

namespace papilio {
namespace {

void expectPartition(std::uint64_t numel, std::size_t element, std::uint32_t n, Seq seq) {
  const Layout layout(numel, element, n, seq);
  SCOPED_TRACE("numel " + std::to_string(numel) + " element " + std::to_string(element) + " n " +
               std::to_string(n));
  std::uint64_t next = 0;
  std::uint32_t seen = 0;
  for (std::uint32_t r = 0; r < n; ++r) {
    const auto span = layout.shardChunks(Rank{r});
    for (std::uint32_t i = 0; i < span.count; ++i) {
      const ChunkIndex chunk{span.first + i};
      ASSERT_LT(chunk.value, layout.chunkCount());
      ASSERT_EQ(layout.owner(chunk), Rank{r});
      const auto range = layout.range(chunk);
      ASSERT_EQ(range.start, next);
      ASSERT_GT(range.size(), 0u);
      ASSERT_LE(layout.bytes(chunk), std::max<std::uint64_t>(maxChunkBytes(n), 64 * 1024));
      next = range.stop;
      ++seen;
    }
  }
  ASSERT_EQ(next, numel);
  ASSERT_EQ(seen, layout.chunkCount());
}

TEST(Layout, IsAPartition) {
  for (const std::uint32_t n : {1u, 2u, 3u, 4u, 7u, 8u, 64u, 256u}) {
    for (const std::size_t element : {1u, 2u, 4u, 8u}) {
      for (const std::uint64_t numel :
           {0ull, 1ull, 63ull, 8192ull, 16385ull, 65537ull, 1000003ull, 16777216ull}) {
        expectPartition(numel, element, n, Seq{numel + n});
      }
    }
  }
}

TEST(Layout, SmallTensorsSpreadOverReducers) {
  std::set<std::uint32_t> owners;
  for (std::uint64_t seq = 1; seq < 50; ++seq) {
    owners.insert(Layout(10, 4, 4, Seq{seq}).owner(ChunkIndex{0}).value);
  }
  EXPECT_EQ(owners.size(), 4u);
}

// A fifth chunk of a few bytes would cost a message, and wait for one of the four credits.
TEST(Layout, UpToTheLargestChunkAShardHasAtMostFour) {
  for (std::uint64_t numel = 16'385; numel < 1'000'000; numel += 1237) {
    const Layout layout(numel, sizeof(float), 4, Seq{1});
    for (std::uint32_t r = 0; r < 4; ++r) {
      ASSERT_LE(layout.shardChunks(Rank{r}).count, 4u) << numel;
    }
  }
}

}  // namespace
}  // namespace papilio
