// Ranks that share hosts and combine their data there first: how much goes between the hosts.
#include <gtest/gtest.h>

#include "sim/world.hpp"

namespace papilio::sim {
namespace {

constexpr std::uint64_t kRounds = 10;
constexpr std::uint64_t kNumel = 100'000;

Workload work(const std::vector<std::uint32_t>& hosts) {
  Workload out;
  out.ranks.resize(4);
  out.hosts = hosts;
  RoundShape shape;
  shape.numel = kNumel;
  out.ops.assign(kRounds, shape);
  return out;
}

// Bytes between ranks 0, 1 and ranks 2, 3.
std::uint64_t crossed(World& world) {
  std::uint64_t sum = 0;
  for (std::uint32_t a = 0; a < 4; ++a) {
    for (std::uint32_t b = 0; b < 4; ++b) {
      if (a / 2 != b / 2) sum += world.network().bytes(Rank{a}, Rank{b});
    }
  }
  return sum;
}

void expectAllComplete(World& world) {
  for (const auto& violation : world.checker().violations()) ADD_FAILURE() << violation;
  EXPECT_EQ(world.checker().tally().complete, 4 * kRounds);
}

TEST(Hosts, HalfOfTheBytesGoBetweenThem) {
  World flat(work({}), 1);
  flat.run();
  expectAllComplete(flat);
  World tiered(work({0, 0, 1, 1}), 1);
  tiered.run();
  expectAllComplete(tiered);
  EXPECT_EQ(crossed(flat), kRounds * 4 * kNumel * 4);
  EXPECT_EQ(crossed(tiered), kRounds * 2 * kNumel * 4);
}

// A leader that is only slow speaks again when another one has taken over: every rank's data is in
// the result once, whoever sent it.
TEST(Hosts, NobodyCountsTwice) {
  Workload plan = work({0, 0, 1, 1});
  for (auto& rank : plan.ranks) rank.options.patience = 2s;
  World world(plan, 1);
  world.onEnter(Rank{0}, Seq{3}, 250us, [&] { world.pause(Rank{0}, 1500ms); });
  world.run();
  for (const auto& violation : world.checker().violations()) ADD_FAILURE() << violation;
  EXPECT_GT(world.checker().tally().complete, 3 * kRounds);
}

// Rank 1 only listens, because its host left its NaN out, and reduces a chunk all the same. The
// other host comes later than the answers to its question who has that chunk: nobody has it yet.
TEST(Hosts, WhoOnlyListensReducesForTheOthersAndItself) {
  Workload plan = work({0, 0, 1, 1});
  plan.ranks[1].nan_at[Seq{3}] = 5;
  for (const auto slow : {2, 3}) plan.ranks[slow].compute = 20ms;
  World world(plan, 1);
  world.checker().mark(Rank{1});
  world.run();
  for (const auto& violation : world.checker().violations()) ADD_FAILURE() << violation;
  EXPECT_EQ(world.checker().tally().degraded, 4);  // without rank 1's data
  const std::map<fault::Source, std::uint64_t> whole{{fault::Source::reduced, 4 * kRounds}};
  EXPECT_EQ(world.checker().tally().chunks, whole);  // all of a tensor from the same ranks
}

}  // namespace
}  // namespace papilio::sim
