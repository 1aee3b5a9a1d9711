// Broadcasts whose root dies at any moment, and others with it: everybody that is left returns the
// same bytes (checked by the checker), soon, and training goes on.
#include <gtest/gtest.h>

#include <iostream>

#include "sim/world.hpp"

namespace papilio::sim {
namespace {

using fault::Source;

// One forward and backward pass of DDP with buffers: two broadcasts from rank 0, two all-reduces.
Workload job(Random& random) {
  Workload work;
  work.ranks.resize(random.between(2, 6));
  for (auto& rank : work.ranks) {
    rank.options.patience = 2s;
    rank.compute = random.upTo(2ms);
  }
  work.depth = static_cast<std::uint32_t>(random.between(1, 3));
  for (int step = 0; step < 9; ++step) {
    for (int i = 0; i < 4; ++i) {
      RoundShape shape;
      if (i < 2) {
        shape.kind = OpKind::broadcast;
        shape.dtype = i == 0 ? DType::float32 : DType::int64;
      }
      shape.numel = random.chance(0.3) ? random.between(20'000, 100'000) : random.between(1, 300);
      work.ops.push_back(shape);
    }
  }
  return work;
}

struct Sum {
  std::map<Source, std::uint64_t> broadcasts;
  std::uint64_t killed = 0;
};

void play(std::uint64_t seed, Sum& sum) {
  Random random(seed);
  Workload work = job(random);
  const std::uint32_t n = work.size();
  World world(std::move(work), random.bits());
  world.checker().expectAgreement();
  for (std::uint32_t a = 0; a < n; ++a) {
    for (std::uint32_t b = 0; b < n; ++b) {
      world.network().link(Rank{a}, Rank{b}).jitter = random.upTo(300us);
    }
  }
  // The root, and sometimes those that would stand in for it one after the other.
  const auto deaths = std::min<std::uint64_t>(n - 1, random.chance(0.5) ? 1 : random.between(1, 4));
  const Seq about{4 * random.between(1, 6) + random.between(1, 2)};
  const bool any_rank = random.chance(0.3);
  const bool leaves = random.chance(0.2);
  for (std::uint32_t d = 0; d < deaths; ++d) {
    const Rank victim{any_rank ? random.rank(n - 1) : d};
    const Duration evidence = random.upTo(random.chance(0.5) ? 200us : 20ms);
    const Duration delay = random.upTo(random.chance(0.7) ? 800us : 25ms);
    const Rank clock{n - 1};  // never dies
    world.onEnter(random.chance(0.5) ? victim : clock, about, delay,
                  [&world, victim, evidence, leaves] {
                    if (leaves) return world.leave(victim);
                    world.crash(victim, evidence);
                  });
  }
  world.run();
  for (const auto& violation : world.checker().violations()) {
    ADD_FAILURE() << "seed " << seed << ": " << violation;
  }
  sum.killed += world.fired();
  for (const auto& [source, count] : world.checker().tally().broadcasts) {
    sum.broadcasts[source] += count;
  }
  for (const auto& done : world.returns()) {
    if (world.node(done.rank).state() != Node::State::running) continue;
    EXPECT_FALSE(done.round.error) << "seed " << seed << ": " << done.round.error.text;
    // Whoever leaves says so only when it has flushed what it owes, at most 1 s.
    EXPECT_LT(done.round.active, leaves ? 1500ms : 250ms)
        << "seed " << seed << " seq " << done.round.seq.value;
  }
}

TEST(Broadcast, SurvivorsAgreeWhoeverDiesWhenever) {
  Sum sum;
  for (std::uint64_t seed = 1; seed <= 400; ++seed) play(seed, sum);
  for (const auto& [source, count] : sum.broadcasts) {
    std::cout << "broadcasts " << fault::name(source) << ": " << count << "\n";
  }
  EXPECT_GT(sum.killed, 350u);
  // All three ways to get the data took place.
  EXPECT_GT(sum.broadcasts[Source::reduced], 0u);
  EXPECT_GT(sum.broadcasts[Source::fetched], 0u);
  EXPECT_GT(sum.broadcasts[Source::redone], 0u);
}

}  // namespace
}  // namespace papilio::sim
