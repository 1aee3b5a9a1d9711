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

RoundShape shapeOf(OpKind kind, DType dtype, std::uint64_t numel) {
  RoundShape shape;
  shape.kind = kind;
  shape.dtype = dtype;
  shape.numel = numel;
  shape.strict = kind == OpKind::allreduce;
  return shape;
}

INSTANTIATE_TEST_SUITE_P(Kinds, BlameTest,
                         testing::Values(shapeOf(OpKind::broadcast, DType::float32, 300),
                                         shapeOf(OpKind::broadcast, DType::int64, 50'000),
                                         shapeOf(OpKind::allreduce, DType::int64, 50'000)));

}  // namespace
}  // namespace papilio::sim
