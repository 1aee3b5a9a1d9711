// A strict collective that times out names whom everybody waits for in the end, also on ranks that
// wait for somebody who waits in turn.
#include <gtest/gtest.h>

#include "sim/world.hpp"

namespace papilio::sim {
namespace {

constexpr Seq kHit{3};

Workload job(const RoundShape& shape, Duration late) {
  Workload work;
  work.ranks.resize(4);
  work.timeout = 2s;
  work.ops.assign(3, shape);
  work.ranks[2].lag[kHit] = late;
  return work;
}

RoundShape shapeOf(OpKind kind, DType dtype, std::uint64_t numel) {
  RoundShape shape;
  shape.kind = kind;
  shape.dtype = dtype;
  shape.numel = numel;
  shape.strict = kind == OpKind::allreduce;
  return shape;
}

RoundShape tolerant(std::uint64_t numel) {
  RoundShape shape = shapeOf(OpKind::allreduce, DType::float32, numel);
  shape.strict = false;
  return shape;
}

class BlameTest : public testing::TestWithParam<RoundShape> {};

// Rank 0 gives its data to ranks 1 and 3, and stops before rank 2 enters. They wait for what rank 2
// is to do with it.
TEST_P(BlameTest, TheEndOfTheChainIsNamed) {
  for (const auto late : {20ms, 400ms, 1500ms}) {
    World world(job(GetParam(), late), 3);
    for (std::uint32_t r = 0; r < 4; ++r) world.checker().mark(Rank{r});
    world.onEnter(Rank{0}, kHit, 10ms, [&] { world.pause(Rank{0}, 20s); });
    world.run();
    EXPECT_EQ(world.fired(), 1u);
    std::uint32_t named = 0;
    for (const auto& done : world.returns()) {
      if (done.rank == Rank{0} || done.round.seq != kHit) continue;
      ContributorSet frozen;
      frozen.insert(Rank{0});
      ASSERT_TRUE(done.round.error) << "rank " << done.rank.value;
      EXPECT_EQ(done.round.error.ranks, frozen)
          << "rank " << done.rank.value << ": " << done.round.error.text;
      EXPECT_LE(done.round.active, 2100ms);
      ++named;
    }
    EXPECT_EQ(named, 3u);
  }
}

// The reducers of what rank 0 left wait for rank 1, which is stopped, and cannot give each other
// their credits back meanwhile. On a busy host all these deadlines have passed when a timer comes.
TEST(Blame, WhoWaitsForAFrozenRankInTheSameRoundIsNotBlamed) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    Workload work;
    work.ranks.resize(4);
    for (auto& rank : work.ranks) {
      rank.compute = 100ms;
      rank.options.patience = 1s;
    }
    for (std::uint64_t seq = 1; seq <= 100; ++seq) {
      work.ops.emplace_back().numel = seq % 40 == 0 ? 1'100'000 : 100;
    }
    work.timer_slack = 40ms;
    World world(work, seed);
    world.checker().mark(Rank{0});
    world.checker().mark(Rank{1});
    world.onEnter(Rank{0}, Seq{10}, 1ms, [&] { world.crash(Rank{0}); });
    world.onEnter(Rank{1}, Seq{39}, 50ms, [&] { world.pause(Rank{1}, 4s); });
    world.run();
    EXPECT_EQ(world.fired(), 2u);
    EXPECT_TRUE(world.checker().violations().empty())
        << "seed " << seed << ": " << world.checker().violations().front();
  }
}

// Rank 2 hears of the wrong model from a result alone: the contributions of rank 3 take longer, and
// so does every word on the control connections. In four rounds everybody is the reducer once.
TEST(Blame, AResultThatOvertakesTheVerdictStillSaysThatItIsTheModel) {
  for (std::uint64_t hit = 2; hit < 6; ++hit) {
    Workload work;
    work.ranks.resize(4);
    work.ops.assign(hit + 1, tolerant(5000));
    work.ranks[3].other[Seq{hit}] = tolerant(5001);
    World world(work, 1);
    world.checker().mark(Rank{3});
    world.network().link(Rank{3}, Rank{2}).latency = 5ms;
    for (const Rank from : {Rank{0}, Rank{1}}) {
      world.network().link(from, Rank{2}).control_delay = 50ms;
    }
    world.run();
    const std::map<Rank, fault::Reason> model{{Rank{3}, fault::Reason::schema}};
    std::uint32_t seen = 0;
    for (const auto& done : world.returns()) {
      if (done.rank == Rank{3} || done.round.seq < Seq{hit}) continue;
      ASSERT_FALSE(done.round.error) << done.round.error.text;
      EXPECT_EQ(done.round.report.blamed, model)
          << "rank " << done.rank.value << " seq " << done.round.seq.value;
      ++seen;
    }
    EXPECT_EQ(seen, 6u);
    EXPECT_TRUE(world.checker().violations().empty()) << world.checker().violations().front();
  }
}

// The same by chance: every message takes its own time, and every rank enters when it likes. Rank 3
// may be the reducer itself, and averages for the others what it has no part in.
TEST(Blame, AWrongModelIsNeverCalledSlowWhateverComesFirst) {
  const std::map<Rank, fault::Reason> model{{Rank{3}, fault::Reason::schema}};
  std::uint32_t seen = 0;
  for (std::uint64_t seed = 1; seed <= 800; ++seed) {
    const Seq hit{2 + seed % 4};
    Random random(seed);
    Workload work;
    work.ranks.resize(4);
    for (auto& rank : work.ranks) rank.lag[hit] = random.upTo(900us);
    work.ops.assign(hit.value, tolerant(5000));
    work.ranks[3].other[hit] = tolerant(5001);
    work.ranks[3].stops_on_mismatch = false;
    World world(work, seed);
    world.checker().mark(Rank{3});
    for (std::uint32_t pair = 0; pair < 16; ++pair) {
      Link& link = world.network().link(Rank{pair / 4}, Rank{pair % 4});
      link.jitter = 300us;
      link.control_delay = random.upTo(500us);
    }
    world.run();
    for (const auto& done : world.returns()) {
      if (done.rank == Rank{3} || done.round.seq != hit) continue;
      EXPECT_EQ(done.round.report.blamed, model) << "seed " << seed << " rank " << done.rank.value;
      ++seen;
    }
  }
  EXPECT_EQ(seen, 2400u);
}

INSTANTIATE_TEST_SUITE_P(Kinds, BlameTest,
                         testing::Values(shapeOf(OpKind::broadcast, DType::float32, 300),
                                         shapeOf(OpKind::broadcast, DType::int64, 50'000),
                                         shapeOf(OpKind::allreduce, DType::int64, 50'000)));

}  // namespace
}  // namespace papilio::sim
