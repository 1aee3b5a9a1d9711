#include "device_lane/slab.hpp"

#include <gtest/gtest.h>

#include <random>

#include "device_lane/host_memory.hpp"

namespace papilio::device {
namespace {

// No two pieces overlap, none leaves the memory, and what is not given is really not free.
TEST(Slab, GivesPiecesThatDoNotOverlap) {
  auto& memory = testing::newMemory();
  auto slab = Slab::take(memory, 0, 1);
  ASSERT_EQ(slab->bytes(), Slab::kLeast);
  struct Piece {
    std::uint64_t start, stop;
  };
  std::deque<Piece> pieces;
  std::mt19937_64 random(1);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    if (!pieces.empty() && random() % 3 == 0) {
      slab->releaseOldest();
      pieces.pop_front();
    }
    const std::uint64_t bytes = 1 + random() % (random() % 4 == 0 ? Slab::kLeast / 2 : 1 << 20);
    const auto start = slab->reserve(bytes);
    if (!start) {
      ++refused;
      continue;
    }
    ASSERT_EQ(*start % Slab::kAlign, 0u);
    ASSERT_LE(*start + bytes, slab->bytes());
    for (const auto& piece : pieces) {
      ASSERT_TRUE(*start + bytes <= piece.start || piece.stop <= *start) << i;
    }
    pieces.push_back({*start, *start + bytes});
  }
  EXPECT_GT(refused, 100);
  while (!pieces.empty()) {
    slab->releaseOldest();
    pieces.pop_front();
  }
  EXPECT_TRUE(slab->idle());
  EXPECT_TRUE(slab->reserve(Slab::kLeast).has_value());  // all of it
  EXPECT_FALSE(slab->reserve(1).has_value());
}

TEST(Slab, IsUsedAgainByTheNextWhoFitsIn) {
  auto& memory = testing::newMemory();
  auto first = Slab::take(memory, 0, Slab::kLeast + 1);
  const auto* data = first->data();
  EXPECT_EQ(first->bytes(), 2 * Slab::kLeast);
  Slab::giveBack(std::move(first));
  EXPECT_NE(Slab::take(memory, 1, 1)->data(), data);  // another device
  EXPECT_NE(Slab::take(memory, 0, 4 * Slab::kLeast)->data(), data);
  EXPECT_EQ(Slab::take(memory, 0, Slab::kLeast)->data(), data);
}

}  // namespace
}  // namespace papilio::device
