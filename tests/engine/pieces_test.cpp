// BlockPool, Outbox, RoundBuffers, ActiveTime, GoodputMeter, each alone.
#include <gtest/gtest.h>

#include <thread>

#include "engine/active_clock.hpp"
#include "engine/block_pool.hpp"
#include "engine/outbox.hpp"
#include "engine/peer_link.hpp"
#include "engine/round_buffers.hpp"

namespace papilio::engine {
namespace {

TEST(BlockPool, TheBudgetBindsStagedBlocksOnly) {
  BlockPool pool(512 * 1024);
  auto a = pool.tryAllocate(256 * 1024);
  auto b = pool.tryAllocate(256 * 1024);
  ASSERT_TRUE(a && b);
  EXPECT_FALSE(pool.tryAllocate(1));
  EXPECT_TRUE(pool.allocate(256 * 1024)) << "kept blocks do not count";
  const auto copy = a;
  a = {};
  EXPECT_FALSE(pool.tryAllocate(1)) << "somebody still holds it";
  b = {};
  EXPECT_TRUE(pool.tryAllocate(1));
}

TEST(BlockPool, SizesAreKeptAndMemoryIsAligned) {
  BlockPool pool(1 << 20);
  for (const std::uint32_t size : {1u, 4096u, 4097u, 65'536u, 65'537u, 262'144u}) {
    auto block = pool.allocate(size);
    EXPECT_EQ(block.size(), size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block.data()) % 64, 0u);
    std::fill_n(block.data(), size, std::byte{1});
  }
  EXPECT_EQ(pool.bytesInUse(), 0u);
  EXPECT_THROW(pool.allocate(BlockPool::kLargest + 1), std::bad_alloc);
}

TEST(BlockPool, BlocksAreReusedAndABurstIsGivenBack) {
  BlockPool pool(1ULL << 30);
  const auto* first = pool.allocate(100).data();
  EXPECT_EQ(pool.allocate(200).data(), first);
  {
    std::vector<BlockRef> burst;
    for (int i = 0; i < 400; ++i) burst.push_back(pool.allocate(256 * 1024));  // 100 MiB
    EXPECT_EQ(pool.bytesInUse(), 400u * 256 * 1024);
  }
  EXPECT_EQ(pool.bytesInUse(), 0u);
  EXPECT_LE(pool.bytesHeld(), 25u << 20);
}

TEST(BlockPool, HandlesCountAcrossCopiesAndMoves) {
  BlockPool pool(1 << 20);
  auto a = pool.allocate(10);
  auto b = a;
  auto c = std::move(a);
  EXPECT_FALSE(a);
  b = b;
  c = std::move(b);
  EXPECT_EQ(pool.bytesInUse(), 4096u);
  c = {};
  EXPECT_EQ(pool.bytesInUse(), 0u);
}

constexpr Time at(Duration since) { return Time{} + since; }

std::shared_ptr<const void> holdOf(int& let_go) {
  return {&let_go, [&let_go](const void*) { ++let_go; }};
}

TEST(BlockPool, BorrowedBytesAreReadWhereTheyLieAndGivenBackOnce) {
  BlockPool pool(1 << 20);
  std::vector<std::byte> bytes(1000, std::byte{7});
  int let_go = 0;
  {
    auto block = pool.borrow(bytes, holdOf(let_go), at(5ms));
    const auto other = block;
    EXPECT_EQ(block.view().data(), bytes.data());
    EXPECT_EQ(block.size(), 1000u);
    EXPECT_EQ(pool.oldestBorrowed(), at(5ms));
    EXPECT_EQ(pool.bytesInUse(), 0u);
    block = {};
    EXPECT_EQ(let_go, 0) << "somebody still reads it";
  }
  EXPECT_EQ(let_go, 1);
  EXPECT_EQ(pool.oldestBorrowed(), kNever);
}

TEST(BlockPool, BorrowedBytesComeHome) {
  BlockPool pool(1 << 20);
  std::vector<std::byte> bytes(1000, std::byte{7});
  int let_go = 0;
  auto old = pool.borrow(bytes, holdOf(let_go), at(5ms));
  auto young = pool.borrow(bytes, holdOf(let_go), at(6ms));
  EXPECT_EQ(pool.bringHome(at(4ms)), 0u);
  EXPECT_EQ(pool.bringHome(at(5ms)), 1u);
  EXPECT_EQ(let_go, 1);
  EXPECT_EQ(pool.oldestBorrowed(), at(6ms));
  std::fill(bytes.begin(), bytes.end(), std::byte{0xee});  // its owner uses it again
  EXPECT_EQ(std::vector(old.view().begin(), old.view().end()),
            std::vector<std::byte>(1000, std::byte{7}));
  EXPECT_EQ(young.data()[0], std::byte{0xee});
  EXPECT_EQ(pool.bytesInUse(), 4096u);
  old = {};
  young = {};
  EXPECT_EQ(let_go, 2);
  EXPECT_EQ(pool.bytesInUse(), 0u);
}

Outbox::Contribution item(std::uint64_t seq, std::uint32_t chunk, std::uint32_t owner = 1) {
  return {Seq{seq}, ChunkIndex{chunk}, Rank{owner}, 0};
}

TEST(Outbox, CreditsArePerOwner) {
  Outbox outbox(2);
  for (std::uint32_t chunk = 0; chunk < 4; ++chunk) outbox.push(item(1, chunk, 1));
  for (std::uint32_t chunk = 10; chunk < 12; ++chunk) outbox.push(item(1, chunk, 2));
  std::vector<std::uint32_t> taken;
  while (const auto* next = outbox.nextContribution()) {
    const auto copy = *next;
    taken.push_back(copy.chunk.value);
    outbox.take(copy);
  }
  EXPECT_EQ(taken, (std::vector<std::uint32_t>{0, 1, 10, 11}));
  EXPECT_FALSE(outbox.empty());
  outbox.settled(Seq{1}, ChunkIndex{0}, Rank{1});
  outbox.settled(Seq{1}, ChunkIndex{0}, Rank{1});  // twice is once
  ASSERT_NE(outbox.nextContribution(), nullptr);
  outbox.take(item(1, 2));
  EXPECT_EQ(outbox.nextContribution(), nullptr);
}

TEST(Outbox, ARepeatNeedsNoSecondCredit) {
  Outbox outbox(1);
  outbox.push(item(1, 0));
  outbox.take(item(1, 0));
  outbox.push(item(1, 0));
  ASSERT_NE(outbox.nextContribution(), nullptr);
  outbox.take(item(1, 0));
  outbox.push(item(1, 1));
  EXPECT_EQ(outbox.nextContribution(), nullptr);
}

TEST(Outbox, DroppingARoundFreesItsCredits) {
  Outbox outbox(1);
  outbox.push(item(1, 0));
  outbox.take(item(1, 0));
  outbox.push(item(1, 1));
  outbox.push(item(2, 0));
  outbox.dropContributions(Seq{1});
  ASSERT_NE(outbox.nextContribution(), nullptr);
  EXPECT_EQ(outbox.nextContribution()->seq, Seq{2});
  outbox.drop(item(2, 0));
  EXPECT_TRUE(outbox.empty());
}

TEST(Outbox, ContributionsAreNotOwedToAnybody) {
  Outbox outbox(4);
  outbox.push(item(1, 0));
  EXPECT_TRUE(outbox.flushed());
  outbox.push(Outbox::Blocks{Seq{3}, 0, 0});
  EXPECT_FALSE(outbox.flushed());
  outbox.dropBlocks(Seq{3});
  outbox.push(Outbox::Result{});
  EXPECT_FALSE(outbox.flushed());
  outbox.clear();
  EXPECT_TRUE(outbox.flushed());
  EXPECT_TRUE(outbox.empty());
}

TEST(RoundBuffers, ContributionsComeInRankOrderWhateverTheArrival) {
  BlockPool pool(1 << 20);
  RoundBuffers buffers;
  const ChunkKey key{Seq{1}, SchemaHash{7}, ChunkIndex{0}};
  for (const std::uint32_t rank : {3u, 0u, 2u, 1u}) {
    buffers.keep(key, {Rank{rank}, 1.0F, pool.allocate(10)});
  }
  const auto kept = buffers.takeContributions(key);
  ASSERT_EQ(kept.size(), 4u);
  for (std::uint32_t i = 0; i < 4; ++i) EXPECT_EQ(kept[i].rank, Rank{i});
  EXPECT_TRUE(buffers.takeContributions(key).empty());
}

TEST(RoundBuffers, ForgettingFreesOneRoundAndSchemaOnly) {
  BlockPool pool(1 << 20);
  RoundBuffers buffers;
  for (const std::uint64_t seq : {1, 2}) {
    for (const std::uint64_t schema : {7, 8}) {
      const ChunkKey key{Seq{seq}, SchemaHash{schema}, ChunkIndex{5}};
      buffers.keep(key, {Rank{0}, 1.0F, pool.allocate(10)});
      buffers.keepResult(key, {pool.allocate(10), 1});
    }
  }
  buffers.forget(Seq{1}, SchemaHash{7});
  EXPECT_EQ(buffers.result({Seq{1}, SchemaHash{7}, ChunkIndex{5}}), nullptr);
  EXPECT_NE(buffers.result({Seq{1}, SchemaHash{8}, ChunkIndex{5}}), nullptr);
  EXPECT_NE(buffers.result({Seq{2}, SchemaHash{7}, ChunkIndex{5}}), nullptr);
  EXPECT_EQ(pool.bytesInUse(), 6u * 4096);
  buffers.clear();
  EXPECT_EQ(pool.bytesInUse(), 0u);
}

TEST(ActiveTime, AStopIsAGapAndHardlyAges) {
  ActiveTime clock;
  const auto start = clock.now();
  EXPECT_GT(start, Time{});
  std::this_thread::sleep_for(400ms);  // the stop itself, not a wait for anything
  const auto after = clock.advance();
  EXPECT_EQ(after - start, ActiveTime::kSlack);
  EXPECT_GE(clock.gap(), 400ms);
  clock.advance();
  EXPECT_EQ(clock.gap(), 0ms);
}

TEST(ActiveTime, APlannedWaitAges) {
  ActiveTime clock;
  const auto start = clock.now();
  const auto due = clock.dueIn(60ms);
  std::this_thread::sleep_for(60ms);
  EXPECT_GE(clock.advance(due) - start, 60ms);
  EXPECT_LE(clock.now() - start, 60ms + ActiveTime::kSlack);
}

TEST(GoodputMeter, CountsBusyTimeOnly) {
  GoodputMeter meter;
  Time now{10s};
  EXPECT_EQ(meter.bytesPerSecond(), 0.0);
  meter.received(now, 0);
  for (int i = 0; i < 100; ++i) meter.received(now += 1ms, 1000);
  EXPECT_NEAR(meter.bytesPerSecond(), 1e6, 1e3);
  meter.received(now += 10s, 1000);  // a pause is no slowness
  EXPECT_NEAR(meter.bytesPerSecond(), 1e6, 2e4);
  for (int i = 0; i < 20'000; ++i) meter.received(now += 1ms, 4000);
  EXPECT_NEAR(meter.bytesPerSecond(), 4e6, 1e5) << "it forgets";
}

}  // namespace
}  // namespace papilio::engine
