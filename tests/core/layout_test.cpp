// The layout is a partition: every element in exactly one chunk, whatever the numbers.
#include "core/layout.hpp"

#include <gtest/gtest.h>

#include <set>

#include "core/hash.hpp"

namespace papilio {
namespace {

void expectPartition(std::uint64_t numel, std::size_t element, std::uint32_t n, Seq seq,
                     const ContributorSet& absent = {}) {
  const Layout layout(numel, element, n, seq, absent);
  SCOPED_TRACE("numel " + std::to_string(numel) + " element " + std::to_string(element) + " n " +
               std::to_string(n));
  std::uint64_t next = 0;
  std::uint32_t seen = 0;
  for (std::uint32_t r = 0; r < n; ++r) {
    const auto span = layout.shardChunks(Rank{r});
    if (absent.contains(Rank{r})) {
      ASSERT_EQ(span.count, 0U);
    }
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

TEST(Layout, WhoIsAbsentOwnsNothingAndTheOthersShareEvenly) {
  for (std::uint64_t seed = 1; seed < 200; ++seed) {
    const auto n = static_cast<std::uint32_t>(2 + mix64(seed) % 30);
    ContributorSet absent;
    for (std::uint32_t r = 0; r + 1 < n; ++r) {
      if (mix64(seed * 100 + r) % 3 == 0)
        absent.insert(Rank{static_cast<std::uint32_t>((r + seed) % n)});
    }
    for (const std::uint64_t numel : {0ull, 5ull, 65537ull, 1000003ull}) {
      expectPartition(numel, 4, n, Seq{seed}, absent);
    }
  }
  // As many shards as there are members, of the size that they would have in a smaller group.
  ContributorSet first;
  first.insert(Rank{0});
  const Layout three(1 << 20, 4, 4, Seq{1}, first);
  const Layout small(1 << 20, 4, 3, Seq{1});
  EXPECT_EQ(three.chunkCount(), small.chunkCount());
  EXPECT_EQ(three.owner(ChunkIndex{0}), Rank{1});
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
