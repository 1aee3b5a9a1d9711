// A member whose data arrives damaged, however often it is sent: nobody else is accused.
#include <gtest/gtest.h>

#include <map>

#include "sim/world.hpp"

namespace papilio::sim {
namespace {

Workload job(std::uint32_t ranks) {
  Workload work;
  work.ranks.resize(ranks);
  for (auto& rank : work.ranks) rank.options.patience = 1s;
  RoundShape shape;
  shape.numel = 100;
  work.ops.assign(8, shape);
  return work;
}

void expectClean(const World& world, const Checker& checker) {
  EXPECT_GE(world.fired(), 1u);
  for (const auto& violation : checker.violations()) ADD_FAILURE() << violation;
}

// Nothing that rank 1 sends its reducers in one round arrives intact, however often. It is left out
// of it, and gets the result like everybody else.
TEST(Damage, WhoseDataIsDamagedGetsTheResultAndBlamesNobody) {
  World world(job(3), 1);
  world.checker().mark(Rank{1});
  const auto damage = [&](double share) {
    for (const Rank to : {Rank{0}, Rank{2}}) {
      world.network().link(Rank{1}, to).corrupt_payload = share;
    }
  };
  for (std::uint64_t seq = 3; seq <= 6; ++seq) {
    world.onEnter(Rank{1}, Seq{seq}, Duration{}, [&] { damage(1); });
  }
  world.onEnter(Rank{1}, Seq{7}, Duration{}, [&] {
    world.noteFired();
    damage(0);
  });
  world.run();
  expectClean(world, world.checker());
  EXPECT_GT(world.network().counters().corrupted, 4u);
  std::uint64_t without = 0;
  for (const auto& done : world.returns()) {
    EXPECT_LE(done.round.active, 50ms) << "it was waited for";
    const auto& blamed = done.round.report.blamed;
    if (done.round.report.outcome == fault::Outcome::complete) continue;
    EXPECT_EQ(blamed, (std::map<Rank, fault::Reason>{{Rank{1}, fault::Reason::corrupt}}))
        << "rank " << done.rank.value << " seq " << done.round.seq.value;
    EXPECT_TRUE(done.round.report.late.empty());
    ++without;
  }
  EXPECT_GE(without, 6u);  // on every rank in each round that rank 1 does not reduce itself
}

}  // namespace
}  // namespace papilio::sim
