// The ballot on the next view: who is in it, where it begins, and that nobody disagrees.
#include "fault/view_change.hpp"

#include <gtest/gtest.h>

#include <cstdlib>

#include "view_change_world.hpp"

namespace papilio::fault {
namespace {

using State = ViewWorld::State;

const Joiner kJoiner{Rank{3}, "127.0.0.1:4000 00000000deadbeef"};

void wantEverywhere(ViewWorld& world, const Joiner& joiner) {
  for (std::uint32_t r = 0; r < world.size(); ++r) world.want(Rank{r}, joiner);
}

TEST(ViewChange, NobodyAsksAsLongAsNothingHappens) {
  ViewWorld world(4, 1);
  world.run(Time{3s});
  for (std::uint32_t r = 0; r < 4; ++r) {
    EXPECT_FALSE(world.node(r).machine->engaged());
    EXPECT_GT(world.node(r).reached, 50U);
  }
}

TEST(ViewChange, ADeadMembersSlotGoesToItsSuccessor) {
  ViewWorld world(4, 2);
  world.at(Time{2s}, [&] { world.kill(Rank{3}); });
  world.at(Time{2s + 1ms}, [&] { wantEverywhere(world, kJoiner); });
  world.run(Time{4s});
  const auto view = world.node(0).view;
  ASSERT_TRUE(view);
  EXPECT_EQ(view->members, ContributorSet::firstN(4));
  ASSERT_EQ(view->joiners.size(), 1U);
  EXPECT_EQ(view->joiners[0], kJoiner);
  for (std::uint32_t r = 0; r < 3; ++r) {
    EXPECT_EQ(world.node(r).state, State::installed) << r;
    EXPECT_EQ(world.node(r).view, view) << r;
    EXPECT_EQ(world.node(r).reached, view->step) << r;
  }
}

TEST(ViewChange, WithoutASuccessorTheDeadMemberIsLeftOut) {
  ViewWorld world(4, 3);
  world.at(Time{2s}, [&] { world.kill(Rank{0}); });
  world.run(Time{4s});
  for (std::uint32_t r = 1; r < 4; ++r) {
    ASSERT_EQ(world.node(r).state, State::installed) << r;
    EXPECT_FALSE(world.node(r).view->members.contains(Rank{0}));
    EXPECT_TRUE(world.node(r).view->joiners.empty());
  }
}

// Without boundaries no view can begin, and a rank that has reached none may never reach one.
TEST(ViewChange, WhoDiedBeforeTheFirstBoundaryIsLeftOutAfterIt) {
  ViewWorld world(4, 3);
  world.max_delay = 100us;  // less than a step
  world.at(Time{1s}, [&] {
    for (std::uint32_t r = 0; r < 4; ++r) ASSERT_EQ(world.node(r).reached, 0U) << r;
    world.kill(Rank{0});
  });
  world.at(Time{1s + 500us}, [&] {
    for (std::uint32_t r = 1; r < 4; ++r) EXPECT_FALSE(world.node(r).machine->engaged()) << r;
  });
  world.run(Time{3s});
  for (std::uint32_t r = 1; r < 4; ++r) {
    ASSERT_EQ(world.node(r).state, State::installed) << r;
    EXPECT_GE(world.node(r).view->step, 1U);
    EXPECT_FALSE(world.node(r).view->members.contains(Rank{0}));
  }
}

TEST(ViewChange, ALivingMembersSlotIsNotGivenAway) {
  ViewWorld world(4, 4);
  world.at(Time{2s}, [&] { wantEverywhere(world, kJoiner); });
  world.run(Time{4s});
  for (std::uint32_t r = 0; r < 4; ++r) EXPECT_FALSE(world.node(r).machine->engaged()) << r;
  // It waits for its turn: the slot is free when its process has died.
  world.kill(Rank{3});
  world.run(Time{6s});
  for (std::uint32_t r = 0; r < 3; ++r) {
    ASSERT_EQ(world.node(r).state, State::installed) << r;
    EXPECT_EQ(world.node(r).view->joiners, std::vector<Joiner>{kJoiner});
  }
}

TEST(ViewChange, OneThatIsSilentIsLeftOutAfterPatienceAndToldSo) {
  ViewWorld world(4, 5);
  world.at(Time{2s}, [&] { world.freeze(Rank{1}, 3s); });
  world.at(Time{2s}, [&] { world.kill(Rank{3}); });
  world.run(Time{2s + 500ms});
  EXPECT_EQ(world.node(0).state, State::held);  // it promised, and waits for rank 1's promise
  world.run(Time{7s});
  EXPECT_EQ(world.node(0).state, State::installed);
  EXPECT_EQ(world.node(2).state, State::installed);
  EXPECT_EQ(world.node(1).state, State::expelled);
  EXPECT_EQ(world.node(1).view, world.node(0).view);
}

TEST(ViewChange, OneThatPromisedAndFellSilentIsInTheViewWhenItReturns) {
  ViewWorld world(4, 6);
  world.at(Time{2s}, [&] { world.kill(Rank{3}); });
  // Long enough for a promise, too short for the proposal.
  bool frozen = false;
  world.onceEngaged(Rank{1}, [&] {
    frozen = true;
    world.freeze(Rank{1}, 3s);
  });
  world.run(Time{8s});
  ASSERT_TRUE(frozen);
  EXPECT_EQ(world.node(0).state, State::installed);
  EXPECT_EQ(world.node(1).state, State::installed);
  EXPECT_EQ(world.node(1).view, world.node(0).view);
}

TEST(ViewChange, TheNextOneTakesOverWhenTheCoordinatorDies) {
  ViewWorld world(4, 7);
  world.at(Time{2s}, [&] { world.kill(Rank{3}); });
  bool killed = false;
  world.onceEngaged(Rank{1}, [&] {
    killed = true;
    world.kill(Rank{0});
  });
  world.run(Time{6s});
  ASSERT_TRUE(killed);
  EXPECT_EQ(world.node(1).state, State::installed);
  EXPECT_EQ(world.node(2).state, State::installed);
  EXPECT_EQ(world.node(1).view, world.node(2).view);
}

TEST(ViewChange, WithoutAQuorumTheWaitEnds) {
  ViewChange::Config config;
  config.me = Rank{0};
  config.members = ContributorSet::firstN(4);
  config.patience = 1s;
  ViewChange machine(config);
  const Time start{5s};
  for (std::uint32_t r = 1; r < 4; ++r) machine.gone(start, Rank{r}, ViewChange::Gone::away, 7);
  machine.tick(machine.nextDeadline(), 7);
  ASSERT_TRUE(machine.engaged());
  machine.takeEffects();
  machine.arrived(start, 8);
  Time now = start;
  view::Effects effects;
  while (effects.empty() && now < start + 10s) {
    now = machine.nextDeadline();
    machine.tick(now, 8);
    effects = machine.takeEffects();
  }
  ASSERT_EQ(effects.size(), 1U);
  const auto* undecided = std::get_if<view::Undecided>(&effects[0]);
  ASSERT_NE(undecided, nullptr);
  EXPECT_EQ(undecided->silent.count(), 3U);
  EXPECT_LE(now, start + 5s);
}

TEST(ViewChange, AtTheEndOfAJobNobodyWaitsForThoseWhoLeft) {
  ViewChange::Config config;
  config.me = Rank{0};
  config.members = ContributorSet::firstN(3);
  ViewChange machine(config);
  const Time start{5s};
  machine.gone(start, Rank{1}, ViewChange::Gone::left, 7);
  EXPECT_EQ(machine.nextDeadline(), kNever);  // no reason for a ballot
  machine.gone(start, Rank{2}, ViewChange::Gone::dead, 7);
  machine.tick(machine.nextDeadline(), 7);
  ASSERT_TRUE(machine.decided());  // its vote alone is the quorum
  EXPECT_EQ(machine.decided()->members.count(), 1U);
}

TEST(ViewChange, ALoneSurvivorOfCrashesDecidesAlone) {
  ViewWorld world(8, 8);
  for (std::uint32_t r = 1; r < 8; ++r) {
    world.at(Time{2s + r * 1ms}, [&world, r] { world.kill(Rank{r}); });
  }
  world.run(Time{6s});
  ASSERT_EQ(world.node(0).state, State::installed);
  EXPECT_TRUE(world.node(0).view->members.contains(Rank{0}));
}

// Many worlds with random deaths, freezes and joiners. What must hold in all of them: one view per
// world; who installs it does so at its boundary; who was neither dead nor frozen ends up in it.
void search(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto n = static_cast<std::uint32_t>(2 + random() % 5);
  ViewWorld world(n, seed);
  world.max_delay = std::chrono::microseconds(200 << random() % 10);
  std::vector<bool> healthy(n, true);
  const auto moment = [&] { return Time{2s} + std::chrono::microseconds(random() % 600'000); };
  const auto faults = random() % 4;
  world.at(moment(), [&] { world.kill(Rank{n - 1}); });
  healthy[n - 1] = false;
  for (std::uint64_t i = 0; i < faults; ++i) {
    const Rank rank{static_cast<std::uint32_t>(random() % n)};
    healthy[rank.value] = false;
    if (random() % 2 == 0) {
      world.at(moment(), [&world, rank] { world.kill(rank); });
    } else {
      const auto term = std::chrono::milliseconds(random() % 4000);
      world.at(moment(), [&world, rank, term] { world.freeze(rank, term); });
    }
  }
  if (random() % 2 == 0) {
    const Joiner joiner{Rank{n - 1}, "record " + std::to_string(seed)};
    for (std::uint32_t r = 0; r < n; ++r) {
      world.at(moment(), [&world, r, joiner] { world.want(Rank{r}, joiner); });
    }
  }
  world.run(Time{60s});

  std::optional<NextView> view;
  const bool most_healthy =
      std::count(healthy.begin(), healthy.end(), true) * 2 > static_cast<std::ptrdiff_t>(n);
  for (std::uint32_t r = 0; r < n; ++r) {
    const auto& node = world.node(r);
    if (node.state == State::dead) continue;
    const std::string where = "seed " + std::to_string(seed) + " rank " + std::to_string(r);
    ASSERT_NE(node.state, State::training) << where;
    ASSERT_NE(node.state, State::held) << where;
    if (node.state != State::undecided) {
      if (!view) view = node.view;
      ASSERT_EQ(node.view, view) << where << ": " << describe(*node.view) << " / "
                                 << describe(*view);
    }
    if (node.state == State::installed) {
      ASSERT_EQ(node.reached, view->step) << where;
      ASSERT_TRUE(view->members.contains(Rank{r})) << where;
    }
    if (healthy[r] && most_healthy) {
      ASSERT_EQ(node.state, State::installed) << where;
    }
  }
}

std::uint64_t fromEnvironment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

TEST(ViewChange, RandomFaultsNeverSplitTheView) {
  const auto first = fromEnvironment("PAPILIO_SIM_FIRST", 1);
  const auto rounds = fromEnvironment("PAPILIO_SIM_ROUNDS", 5000);
  for (auto seed = first; seed < first + rounds && !testing::Test::HasFatalFailure(); ++seed) {
    search(seed);
  }
}

}  // namespace
}  // namespace papilio::fault
