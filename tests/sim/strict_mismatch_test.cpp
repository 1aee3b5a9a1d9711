// One member calls another collective than the rest, and ENTERs and failures come in any order:
// the rest name it and nobody else, it learns that it is the one, and nobody is put on the
// blacklist for it who did as the rest.
#include <gtest/gtest.h>

#include <iostream>

#include "sim/world.hpp"

namespace papilio::sim {
namespace {

constexpr std::size_t kCalls = 6;
constexpr Seq kOdd{3};

Workload job(Random& random, Rank odd) {
  Workload work;
  work.ranks.resize(random.between(3, 6));
  for (auto& rank : work.ranks) {
    rank.compute = 1ms + random.upTo(2ms);
    rank.stops_on_mismatch = false;
  }
  RoundShape shape;
  shape.strict = true;
  shape.dtype = DType::int64;
  shape.numel = random.chance(0.5) ? 40 : 400;
  work.ops.assign(kCalls, shape);
  shape.numel -= 1;
  work.ranks[odd.value].other[kOdd] = shape;
  return work;
}

void play(std::uint64_t seed, std::uint64_t& mismatches) {
  Random random(seed);
  const Rank odd{static_cast<std::uint32_t>(random.between(0, 2))};
  const Workload work = job(random, odd);
  World world(work, random.bits());
  for (std::uint32_t a = 0; a < work.size(); ++a) {
    for (std::uint32_t b = 0; b < work.size(); ++b) {
      world.network().link(Rank{a}, Rank{b}).control_delay = random.upTo(8ms);
    }
  }
  world.checker().mark(odd);
  world.run();
  for (const auto& violation : world.checker().violations()) {
    ADD_FAILURE() << "seed " << seed << ": " << violation;
  }
  for (const auto& done : world.returns()) {
    const Finished& round = done.round;
    const std::string where = "seed " + std::to_string(seed) + " rank " +
                              std::to_string(done.rank.value) + " seq " +
                              std::to_string(round.seq.value) + ": " + round.error.text;
    if (round.seq != kOdd) {
      EXPECT_FALSE(round.error) << where;
      continue;
    }
    ++mismatches;
    EXPECT_EQ(round.error.reason, fault::Reason::schema) << where;
    if (done.rank == odd) {
      EXPECT_EQ(round.error.kind, fault::ErrorKind::schema_mismatch) << where;
      EXPECT_FALSE(round.error.ranks.contains(odd)) << where;
      EXPECT_FALSE(round.error.ranks.empty()) << where;
    } else {
      EXPECT_EQ(round.error.kind, fault::ErrorKind::peer_failed) << where;
      EXPECT_EQ(round.error.ranks.ranks(), std::vector{odd}) << where;
    }
  }
}

TEST(StrictMismatch, TheRestNamesTheOddOne) {
  std::uint64_t mismatches = 0;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) play(seed, mismatches);
  std::cout << mismatches << " returns of a collective that one rank called differently\n";
  EXPECT_GT(mismatches, 900u);
}

}  // namespace
}  // namespace papilio::sim
