// Who is late because of others is said to be late, and not to be at fault: also while those others
// are not in doubt, or are not to be doubted at all.
#include <gtest/gtest.h>

#include "sim/world.hpp"

namespace papilio::sim {
namespace {

Workload job(std::uint32_t ranks, std::size_t rounds) {
  Workload work;
  work.ranks.resize(ranks);
  for (auto& rank : work.ranks) {
    rank.options.patience = 500ms;
    rank.options.slow_strikes = 1;
  }
  RoundShape shape;
  shape.numel = 100;
  work.ops.assign(rounds, shape);
  return work;
}

// Small tensors have one reducer.
Rank reducerOf(const Workload& work, Seq seq) {
  return Layout(100, 4, work.size(), seq).owner(ChunkIndex{0});
}

// A round that `first` reduces, before one that `then` reduces.
Seq reducedBy(const Workload& work, Rank first, Rank then) {
  Seq seq{3};
  while (reducerOf(work, seq) != first || reducerOf(work, Seq{seq.value + 1}) != then) ++seq.value;
  return seq;
}

// What rank 1 reduced does not get through to rank 3 for 700 ms. The others have it, go on, and
// miss rank 3 in the next round, which has said that it waits for rank 1. Nobody doubts rank 1.
TEST(Held, WhoWaitsForSomebodyThatNobodyDoubtsIsLateAndNotBlamed) {
  const Workload work = job(4, 40);
  const Seq hit = reducedBy(work, Rank{1}, Rank{0});
  World world(work, 1);
  world.checker().mark(Rank{1});
  world.onEnter(Rank{1}, hit, Duration{}, [&] {
    world.noteFired();
    world.network().block(Rank{1}, Rank{3});
    world.at(world.now().time_since_epoch() + 700ms,
             [&] { world.network().unblock(Rank{1}, Rank{3}); });
  });
  world.run();
  EXPECT_EQ(world.fired(), 1u);
  EXPECT_TRUE(world.checker().violations().empty()) << world.checker().violations().front();
  std::uint32_t without = 0;
  for (const auto& done : world.returns()) {
    const auto& report = done.round.report;
    if (report.outcome == fault::Outcome::complete || done.rank == Rank{3}) continue;
    EXPECT_TRUE(report.late.contains(Rank{3})) << "seq " << done.round.seq.value;
    ++without;
  }
  EXPECT_GE(without, 3u);  // it was really missed
  for (std::uint32_t r = 0; r < 4; ++r) {
    EXPECT_EQ(world.node(Rank{r}).machine().counters().strikes, 0u) << "rank " << r;
  }
}

// Rank 4 has the wrong model. Two that are right found so; the other two are stopped, so that is no
// majority, and rank 4 goes on. Nothing comes from those two, and that is no fault of theirs.
TEST(Held, WhoIsOutDoesNotAccuseThoseWhoSaidSo) {
  Workload work = job(5, 40);
  for (auto& rank : work.ranks) rank.compute = 20ms;
  constexpr Seq kWrong{6};
  for (std::uint64_t seq = kWrong.value; seq <= 40; ++seq) {
    RoundShape other = work.ops[seq - 1];
    other.numel = 101;
    work.ranks[4].other[Seq{seq}] = other;
  }
  work.ranks[4].stops_on_mismatch = false;
  World world(work, 1);
  world.checker().mark(Rank{4});
  for (const Rank stopped : {Rank{0}, Rank{2}}) {
    world.onEnter(stopped, Seq{kWrong.value - 1}, 10ms, [&, stopped] { world.pause(stopped, 9s); });
  }
  world.run();
  EXPECT_EQ(world.fired(), 2u);
  EXPECT_TRUE(world.checker().violations().empty()) << world.checker().violations().front();
  std::uint32_t alone = 0;
  for (const auto& done : world.returns()) {
    const bool error = static_cast<bool>(done.round.error);
    if (done.rank == Rank{4} && done.round.seq > kWrong && !error) ++alone;
  }
  EXPECT_GT(alone, 0u);  // it went on
}

}  // namespace
}  // namespace papilio::sim
