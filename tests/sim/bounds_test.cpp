// How long things take, and how much they hold: invariants I1, I8 and I9 with numbers.
#include <gtest/gtest.h>

#include "core/crc32c.hpp"
#include "core/layout.hpp"
#include "sim/world.hpp"

namespace papilio::sim {
namespace {

Workload job(std::uint32_t n, std::uint64_t numel, std::uint64_t rounds, Duration patience) {
  Workload work;
  work.ranks.resize(n);
  for (auto& rank : work.ranks) rank.options.patience = patience;
  RoundShape shape;
  shape.numel = numel;
  work.ops.assign(rounds, shape);
  return work;
}

void expectClean(World& world) {
  for (const auto& violation : world.checker().violations()) ADD_FAILURE() << violation;
}

class KillTest : public testing::TestWithParam<std::uint32_t> {};

// A death that is known costs the round it hits its detection and a few messages, later rounds
// nothing at all, whoever dies and whenever.
TEST_P(KillTest, CostsItsRoundTheDetectionAndLaterRoundsNothing) {
  for (const std::uint64_t numel : {20ull, 40'000ull}) {
    for (const auto delay : {0us, 40us, 60us, 90us, 120us, 400us}) {
      World world(job(4, numel, 30, 5s), 11 + GetParam());
      const Rank victim{GetParam()};
      world.onEnter(victim, Seq{10}, delay, [&] { world.crash(victim, 20ms); });
      world.run();
      expectClean(world);
      EXPECT_EQ(world.fired(), 1u);
      Instant known{};
      for (const auto& done : world.returns()) {
        if (done.rank == victim || done.round.seq < Seq{10}) continue;
        EXPECT_LT(done.round.active, 60ms) << "seq " << done.round.seq.value;
        if (done.round.active > 10ms) known = std::max(known, done.when);
      }
      for (const auto& done : world.returns()) {
        if (done.rank == victim || done.round.entered <= known) continue;
        EXPECT_LT(done.round.active, 10ms) << "seq " << done.round.seq.value;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AnyRank, KillTest, testing::Values(0u, 1u, 2u, 3u));

// A small tensor has one reducer. When that one stands still, every member waits for it in vain,
// and that is the one patience: none of them waits for it again when they reduce the next rounds.
TEST(FrozenReducer, OfASmallTensorCostsOnePatience) {
  for (std::uint64_t seq = 10; seq < 20; ++seq) {
    World world(job(4, 20, 60, 2s), seq);
    const Rank victim = Layout(20, 4, 4, Seq{seq}).owner(ChunkIndex{0});
    world.onEnter(victim, Seq{seq}, 30us, [&] { world.pause(victim, 20s); });
    world.run();
    expectClean(world);
    EXPECT_EQ(world.fired(), 1u);
    std::vector<Duration> waited(4);
    for (const auto& done : world.returns()) waited[done.rank.value] += done.round.active;
    for (std::uint32_t r = 0; r < 4; ++r) {
      if (Rank{r} == victim) continue;
      EXPECT_GE(waited[r], 2s) << "seq " << seq << ", rank " << r;
      EXPECT_LE(waited[r], 3500ms) << "seq " << seq << ", rank " << r;
    }
  }
}

class FreezeTest : public testing::TestWithParam<std::uint64_t> {};

// The hit rounds return within patience + 1 s; then the others run at full speed, and nobody but
// the frozen rank is blamed (the checker sees to that).
TEST_P(FreezeTest, CostsOnePatience) {
  World world(job(4, GetParam(), 400, 2s), 5);
  const Rank victim{2};
  world.onEnter(victim, Seq{10}, 30us, [&] { world.pause(victim, 6s); });
  world.run();
  expectClean(world);
  EXPECT_EQ(world.fired(), 1u);
  Duration waited{};
  for (const auto& done : world.returns()) {
    if (done.rank == victim) continue;
    EXPECT_LE(done.round.active, 3s) << "seq " << done.round.seq.value;
    if (done.rank == Rank{0} && done.round.active > 10ms) waited += done.round.active;
  }
  EXPECT_LE(waited, 3500ms);
}

INSTANTIATE_TEST_SUITE_P(SmallAndLarge, FreezeTest, testing::Values(20, 40'000));

// A peer that repeats everything many times costs no memory.
TEST(Flood, RepeatsAreNotKept) {
  World world(job(3, 30'000, 40, 5s), 3);
  for (std::uint32_t r = 1; r < 3; ++r) world.network().link(Rank{0}, Rank{r}).duplicate = 1;
  world.run();
  expectClean(world);
  EXPECT_GT(world.network().counters().duplicated, 100u);
  for (std::uint32_t r = 0; r < 3; ++r) {
    EXPECT_LE(world.node(Rank{r}).mostContributionBytes(), 2u * 30'000 * 4);
    EXPECT_GT(world.node(Rank{r}).machine().counters().rounds_complete, 39u);
  }
  EXPECT_GT(world.node(Rank{1}).machine().counters().dropped_duplicate, 0u);
}

// While a rank is frozen, what the others hold for it stays within the retention budget.
TEST(Flood, AFrozenRankDoesNotMakeTheOthersGrow) {
  Workload work = job(3, 60'000, 300, 500ms);
  for (auto& rank : work.ranks) rank.options.retention_bytes = 2 << 20;
  World world(std::move(work), 3);
  world.onEnter(Rank{2}, Seq{10}, 0us, [&] { world.pause(Rank{2}, 20s); });
  world.run();
  expectClean(world);
  for (std::uint32_t r = 0; r < 2; ++r) {
    EXPECT_LE(world.node(Rank{r}).resultBytes(), 2u << 20);
    EXPECT_LE(world.node(Rank{r}).mostContributionBytes(), 3u * 60'000 * 4);
  }
}

}  // namespace
}  // namespace papilio::sim
