// Damage for tests: what is named, as often as named, one bit of a copy, and nothing when it is
// off.
#include "engine/test_damage.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <stdexcept>

namespace papilio::engine {
namespace {

constexpr std::uint32_t kBytes = 5000;

class Sending {
 public:
  Sending() : kept_(pool_.allocate(kBytes)) { std::memset(kept_.data(), 0x5a, kBytes); }

  // Bits that differ in what the lane gets.
  int bits(TestDamage& damage, TestPhase phase, std::uint64_t seq, std::uint32_t chunk,
           std::uint32_t to) {
    BlockRef payload = kept_;
    damage.sends(phase, Seq{seq}, ChunkIndex{chunk}, Rank{to}, pool_, payload);
    EXPECT_EQ(payload.size(), kBytes);
    return different(payload);
  }
  // What the rank keeps is as it was.
  int keptBits() const { return different(kept_); }

 private:
  static int different(const BlockRef& payload) {
    int out = 0;
    for (const std::byte b : payload.view())
      out += std::popcount(std::to_integer<unsigned>(b) ^ 0x5aU);
    return out;
  }

  BlockPool pool_{1 << 20};
  BlockRef kept_;
};

TEST(TestDamage, RefusesWhatItDoesNotUnderstand) {
  for (const char* text : {"returning", "returning:3", "before:3:1", "reducing:3:1", "x:3:1",
                           "returning:x:1", "returning:3:x", "returning:3:0", "returning:0:1",
                           "returning:3:1x", "returning:3:-1", ":::"}) {
    EXPECT_THROW(TestDamage{text}, std::invalid_argument) << text;
  }
}

TEST(TestDamage, IsOffWithoutAText) {
  Sending sending;
  for (const char* text : {static_cast<const char*>(nullptr), ""}) {
    TestDamage damage(text);
    EXPECT_FALSE(damage.on());
    for (std::uint64_t seq = 0; seq < 4; ++seq) {
      EXPECT_EQ(sending.bits(damage, TestPhase::before, seq, 0, 1), 0);
      EXPECT_EQ(sending.bits(damage, TestPhase::returning, seq, 0, 1), 0);
    }
    EXPECT_EQ(damage.bytes(), 0u);
  }
}

TEST(TestDamage, HitsTheFirstCopiesForEachReceiverAndLeavesWhatIsKept) {
  Sending sending;
  TestDamage damage("returning:3:2");
  EXPECT_TRUE(damage.on());
  EXPECT_EQ(sending.bits(damage, TestPhase::contributing, 3, 0, 1), 0);
  EXPECT_EQ(sending.bits(damage, TestPhase::returning, 2, 0, 1), 0);
  for (const std::uint32_t to : {1U, 2U}) {
    for (const std::uint32_t chunk : {0U, 7U}) {
      EXPECT_EQ(sending.bits(damage, TestPhase::returning, 3, chunk, to), 1);
      EXPECT_EQ(sending.bits(damage, TestPhase::returning, 3, chunk, to), 1);
      EXPECT_EQ(sending.bits(damage, TestPhase::returning, 3, chunk, to), 0);
    }
  }
  EXPECT_EQ(damage.bytes(), 8u);
  EXPECT_EQ(sending.keptBits(), 0);
}

TEST(TestDamage, LeavesMessagesWithoutBytesAlone) {
  BlockPool pool{1 << 20};
  TestDamage damage("contributing:1:1");
  BlockRef nothing;
  damage.sends(TestPhase::contributing, Seq{1}, ChunkIndex{0}, Rank{1}, pool, nothing);
  EXPECT_FALSE(nothing);
  EXPECT_EQ(damage.bytes(), 0u);
}

}  // namespace
}  // namespace papilio::engine
