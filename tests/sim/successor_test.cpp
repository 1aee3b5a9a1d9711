// The reducer dies when its result has reached its successor and nobody else, and the successor is
// in the next round already when the others ask it to reduce the chunk again.
#include <gtest/gtest.h>

#include "sim/world.hpp"

namespace papilio::sim {
namespace {

constexpr std::uint32_t kRanks = 8;
constexpr Rank kReducer{0};
constexpr Rank kSuccessor{1};

Workload job() {
  Workload work;
  work.ranks.resize(kRanks);
  for (auto& rank : work.ranks) rank.options.patience = 1s;
  RoundShape shape;
  shape.numel = 100;
  work.ops.assign(60, shape);
  return work;
}

// Small tensors have one reducer.
Seq reducedBy(Rank rank) {
  Seq seq{10};
  while (Layout(100, 4, kRanks, seq).owner(ChunkIndex{0}) != rank) ++seq.value;
  return seq;
}

// A process that waits for messages looks at them more often than at the ends of other processes:
// the successor may be asked by those who know before it knows itself.
TEST(Successor, AsksForEveryContributionBeforeItKnowsOfTheDeath) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    const Workload work = job();
    const Seq hit = reducedBy(kReducer);
    World world(work, seed);
    world.checker().mark(kReducer);
    world.onEnter(kReducer, hit, Duration{}, [&] {
      for (std::uint32_t r = 2; r < kRanks; ++r) world.network().block(kReducer, Rank{r});
    });
    world.onEnter(kSuccessor, Seq{hit.value + 1}, Duration{},
                  [&] { world.crash(kReducer, 1ms, {{kSuccessor, Duration{3ms}}}); });
    world.run();
    ASSERT_EQ(world.fired(), 1u);
    EXPECT_TRUE(world.checker().violations().empty())
        << "seed " << seed << ": " << world.checker().violations().front();
    for (const auto& done : world.returns()) {
      if (done.round.seq != hit || done.rank == kReducer) continue;
      const auto& report = done.round.report;
      if (done.rank == kSuccessor) {
        EXPECT_EQ(report.outcome, fault::Outcome::complete) << "seed " << seed;
        continue;
      }
      ASSERT_EQ(report.chunks.size(), 1u);
      EXPECT_EQ(report.chunks[0].source, fault::Source::redone);
      // All that had no result are in it, and nobody is to blame but the dead.
      EXPECT_EQ(report.chunks[0].contributors.count(), kRanks - 2)
          << "seed " << seed << " rank " << done.rank.value;
      for (const auto& [rank, why] : report.blamed) EXPECT_EQ(rank, kReducer) << "seed " << seed;
      EXPECT_LE(done.round.active, 50ms);
    }
  }
}

}  // namespace
}  // namespace papilio::sim
