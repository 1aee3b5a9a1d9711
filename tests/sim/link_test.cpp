// A link that is down for a while and comes back: the rank behind it takes all others for slow, and
// all others it. Nobody's process was away, so nobody notices by itself that it was cut off.
#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "sim/world.hpp"

namespace papilio::sim {
namespace {

constexpr Seq kHit{4};
constexpr Rank kVictim{1};
constexpr std::uint64_t kRounds = 500;
constexpr std::uint64_t kSettled = 400;  // from this round on all is as before

class LinkTest : public testing::TestWithParam<std::tuple<std::uint32_t, std::uint64_t, Duration>> {
 protected:
  void SetUp() override {
    const auto [n, numel, length] = GetParam();
    work_.ranks.resize(n);
    for (auto& rank : work_.ranks) {
      rank.options.patience = 1s;
      rank.compute = 10ms;
    }
    RoundShape shape;
    shape.numel = numel;
    work_.ops.assign(kRounds, shape);
  }
  void cut(World& world, Duration length) {
    world.checker().mark(kVictim);
    world.onEnter(kVictim, kHit, 30us, [&world, length] {
      for (std::uint32_t r = 0; r < world.work().size(); ++r) {
        if (Rank{r} == kVictim) continue;
        world.block(kVictim, Rank{r}, length);
        world.block(Rank{r}, kVictim, length);
      }
    });
  }

  Workload work_;
};

TEST_P(LinkTest, DownAndUpCostsOneIncident) {
  const auto length = std::get<2>(GetParam());
  const std::uint64_t seeds = std::get<1>(GetParam()) > 16'384 ? 2 : 10;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    World world(work_, seed);
    cut(world, length);
    world.run();
    EXPECT_GT(world.fired(), 0u);
    for (const auto& violation : world.checker().violations()) ADD_FAILURE() << violation;
    std::uint64_t incomplete = 0;
    for (const auto& done : world.returns()) {
      if (done.round.seq.value < kSettled) continue;
      incomplete += done.round.report.outcome != fault::Outcome::complete;
    }
    EXPECT_EQ(incomplete, 0u) << "seed " << seed;
    if (HasFailure()) {
      if (getenv("SHOW"))
        for (const auto& line : world.lines()) puts(line.c_str());
      return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, LinkTest,
    testing::Combine(testing::Values(2u, 4u, 8u), testing::Values(1000u, 20'000u),
                     testing::Values(Duration{300ms}, Duration{1300ms}, Duration{1800ms})));

}  // namespace
}  // namespace papilio::sim
