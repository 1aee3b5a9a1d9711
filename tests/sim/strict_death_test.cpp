// Strict all-reduces, small and in shards, while members die and the others hear of it one after
// the other: every value is the sum over the members of its report (the checker's oracle), who are
// the same for everybody that has a value, and soon all calls are over those that are left.
#include <gtest/gtest.h>

#include <iostream>

#include "sim/world.hpp"

namespace papilio::sim {
namespace {

constexpr std::size_t kCalls = 60;
constexpr std::size_t kLast = 15;  // long after everybody knows of every death

Workload job(Random& random) {
  Workload work;
  work.ranks.resize(random.between(3, 6));
  for (auto& rank : work.ranks) rank.compute = 1ms + random.upTo(2ms);
  work.depth = static_cast<std::uint32_t>(random.between(1, 3));
  for (std::size_t i = 0; i < kCalls; ++i) {
    RoundShape shape;
    shape.strict = true;
    shape.dtype = DType::int64;
    shape.numel = random.chance(0.5) ? random.between(1, 63)
                                     : random.between(64, random.chance(0.2) ? 60'000 : 500);
    work.ops.push_back(shape);
  }
  return work;
}

struct Sum {
  std::uint64_t killed = 0, values = 0, over_the_rest = 0, errors = 0;
};

void checkValues(World& world, const Workload& work, std::uint64_t seed, Sum& sum) {
  std::map<Seq, const Finished*> first;
  for (const auto& done : world.returns()) {
    if (world.node(done.rank).state() != Node::State::running) continue;
    const Finished& round = done.round;
    const std::string where = "seed " + std::to_string(seed) + " rank " +
                              std::to_string(done.rank.value) + " seq " +
                              std::to_string(round.seq.value);
    if (round.error) {
      ++sum.errors;
      EXPECT_EQ(round.error.kind, fault::ErrorKind::peer_failed) << where;
      EXPECT_LE(round.seq.value, kCalls - kLast) << where << ": " << round.error.text;
      continue;
    }
    ++sum.values;
    ASSERT_EQ(round.report.chunks.size(), 1u) << where;
    if (round.report.chunks[0].contributors.count() < work.size()) ++sum.over_the_rest;
    const auto [known, is_first] = first.emplace(round.seq, &round);
    if (is_first) continue;
    EXPECT_EQ(round.report.chunks[0].contributors, known->second->report.chunks[0].contributors)
        << where;
  }
}

void play(std::uint64_t seed, Sum& sum) {
  Random random(seed);
  const Workload work = job(random);
  const std::uint32_t n = work.size();
  World world(work, random.bits());
  for (std::uint32_t a = 0; a < n; ++a) {
    for (std::uint32_t b = 0; b < n; ++b) {
      world.network().link(Rank{a}, Rank{b}).jitter = random.upTo(500us);
    }
  }
  const auto deaths = random.between(1, n - 2);
  for (std::uint32_t d = 0; d < deaths; ++d) {
    const Rank victim{d};
    world.checker().mark(victim);
    const Duration evidence = random.upTo(random.chance(0.5) ? 500us : 8ms);
    world.onEnter(random.chance(0.5) ? victim : Rank{n - 1}, Seq{random.between(2, 25)},
                  random.upTo(2ms), [&world, victim, evidence] { world.crash(victim, evidence); });
  }
  world.run();
  for (const auto& violation : world.checker().violations()) {
    ADD_FAILURE() << "seed " << seed << ": " << violation;
  }
  sum.killed += world.fired();
  checkValues(world, work, seed, sum);
}

TEST(StrictDeath, EveryValueIsOneSumAndTheRestGoesOn) {
  Sum sum;
  for (std::uint64_t seed = 1; seed <= 150; ++seed) play(seed, sum);
  std::cout << "strict all-reduces: " << sum.values << " values, " << sum.over_the_rest
            << " of them over the rest, " << sum.errors << " errors, " << sum.killed << " killed\n";
  EXPECT_GT(sum.killed, 200u);
  EXPECT_GT(sum.over_the_rest, sum.values / 3);
  EXPECT_GT(sum.errors, 0u);
}

}  // namespace
}  // namespace papilio::sim
