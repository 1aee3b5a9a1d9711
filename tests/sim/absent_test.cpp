// Ranks that live but call no more collectives (their user code stopped after an error): whoever
// goes on alone waits for them once per reducer, not until the ceiling of every call.
#include <gtest/gtest.h>

#include "sim/world.hpp"

namespace papilio::sim {
namespace {

constexpr std::uint32_t kRanks = 4;
constexpr Duration kPatience = 2s;
const Duration kAlone = fault::ArrivalPolicy(kPatience).aloneBudget();

struct Case {
  std::uint64_t numel;
  std::uint64_t gone_at;  // seq at which rank 0 dies and all but rank 3 stop calling
};

class AbsentTest : public testing::TestWithParam<Case> {};

// Rank 0 is killed, ranks 1 and 2 stop. For rank 3 less than half of the living take part, so there
// is no median member whose arrival could start a clock.
TEST_P(AbsentTest, TheOneThatGoesOnWaitsOncePerReducer) {
  const auto [numel, gone_at] = GetParam();
  Workload work;
  work.ranks.resize(kRanks);
  for (auto& rank : work.ranks) rank.options.patience = kPatience;
  work.ops.assign(gone_at + 20, [&] {
    RoundShape shape;
    shape.numel = numel;
    return shape;
  }());
  for (const std::uint32_t r : {1u, 2u}) work.ranks[r].lag[Seq{gone_at + 1}] = 1000s;
  World world(std::move(work), 7);
  for (const std::uint32_t r : {1u, 2u}) world.checker().mark(Rank{r});
  world.onEnter(Rank{0}, Seq{gone_at}, 30us, [&] { world.crash(Rank{0}, 5ms); });
  world.run();
  for (const auto& violation : world.checker().violations()) ADD_FAILURE() << violation;
  Duration waited{};
  std::uint64_t rounds = 0;
  for (const auto& done : world.returns()) {
    if (done.rank != Rank{3}) continue;
    ++rounds;
    waited += done.round.active;
    EXPECT_LE(done.round.active, kAlone + 500ms) << "seq " << done.round.seq.value;
  }
  EXPECT_EQ(rounds, gone_at + 20);
  // Large tensors meet all three reducers in one round, small ones one after the other; after that
  // the absent cost nothing.
  EXPECT_GE(waited, kAlone);
  EXPECT_LE(waited, (numel > 1000 ? 1 : 3) * kAlone + 500ms);
}

INSTANTIATE_TEST_SUITE_P(SmallAndLarge, AbsentTest,
                         testing::Values(Case{20, 40}, Case{40'000, 40}, Case{20, 6},
                                         Case{40'000, 6}));

}  // namespace
}  // namespace papilio::sim
