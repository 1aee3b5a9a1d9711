// The link of one rank is down, or as good as down, for a while: it takes all others for slow, and
// all others it. Nobody's process was away, so nobody notices by itself that it was cut off.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <tuple>

#include "core/layout.hpp"
#include "sim/world.hpp"

namespace papilio::sim {
namespace {

constexpr Seq kHit{4};
constexpr Rank kVictim{1};
constexpr double kOneChunk = 65'536;  // bytes of a tensor with one reducer
constexpr std::uint64_t kRounds = 500;
constexpr std::uint64_t kSettled = 400;  // from this round on all is as before

class LinkTest : public testing::TestWithParam<std::tuple<std::uint32_t, std::uint64_t, Duration>> {
 protected:
  void SetUp() override {
    work_.ranks.resize(n());
    for (auto& rank : work_.ranks) {
      rank.options.patience = 1s;
      rank.compute = 20ms;
    }
    RoundShape shape;
    shape.numel = std::get<1>(GetParam());
    work_.ops.assign(kRounds, shape);
  }

  std::uint32_t n() const { return std::get<0>(GetParam()); }
  Duration length() const { return std::get<2>(GetParam()); }
  std::uint64_t seeds() const {
    const bool large = std::get<1>(GetParam()) > 16'384;
    const bool soak = std::getenv("PAPILIO_TEST_SOAK") != nullptr;  // `make soak-sim`
    return soak ? (large ? 5 : 25) : (large ? 1 : 3);
  }

  // `hit` is called when the victim enters its round; then all runs to its end.
  void run(std::uint64_t seed, const std::function<void(World&)>& hit) {
    World world(work_, seed, std::getenv("PAPILIO_SIM_SHOW") != nullptr);
    world.checker().mark(kVictim);
    world.onEnter(kVictim, kHit, 30us, [&] {
      world.noteFired();
      hit(world);
    });
    world.run();
    for (const auto& line : world.lines()) std::puts(line.c_str());
    EXPECT_GT(world.fired(), 0u);
    for (const auto& violation : world.checker().violations()) ADD_FAILURE() << violation;
    expectOneIncident(world);
  }

  // Nobody but the victim is called slow, and in the end all is as before.
  void expectOneIncident(const World& world) const {
    for (const auto& [who, event] : world.events()) {
      if (event.kind != fault::EventKind::peer_slow || n() == 2) continue;
      EXPECT_EQ(event.rank, kVictim) << "says rank " << who.value << ": " << event.detail;
      EXPECT_NE(who, kVictim);
    }
    std::uint64_t incomplete = 0;
    for (const auto& done : world.returns()) {
      if (done.round.seq.value < kSettled) continue;
      incomplete += done.round.report.outcome != fault::Outcome::complete;
    }
    EXPECT_EQ(incomplete, 0u);
  }

  Workload work_;
};

TEST_P(LinkTest, DownAndUpCostsOneIncident) {
  for (std::uint64_t seed = 1; seed <= seeds(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    run(seed, [&](World& world) {
      for (std::uint32_t r = 0; r < n(); ++r) {
        if (Rank{r} == kVictim) continue;
        world.block(kVictim, Rank{r}, length());
        world.block(Rank{r}, kVictim, length());
      }
    });
  }
}

// So slow that no tensor comes through in time; small messages do, late.
TEST_P(LinkTest, SlowAndFastAgainCostsOneIncident) {
  if (n() == 2) return;  // of two, nobody can tell whose link it is
  const auto set = [&](World& world, double rate, Duration delay) {
    for (std::uint32_t r = 0; r < n(); ++r) {
      if (Rank{r} == kVictim) continue;
      for (const auto& [from, to] : {std::pair{kVictim, Rank{r}}, std::pair{Rank{r}, kVictim}}) {
        world.network().setRate(from, to, rate);
        world.network().link(from, to).control_delay = delay;
      }
    }
  };
  // One message takes 1.3 s.
  const double bytes = static_cast<double>(work_.ops[0].numel * 4);
  const double rate = (bytes > kOneChunk ? bytes / n() : bytes) / 1.3;
  for (std::uint64_t seed = 1; seed <= seeds(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    run(seed, [&](World& world) {
      set(world, rate, 150ms);
      world.at(world.now().time_since_epoch() + length() / 2, [&] { set(world, 2e9, Duration{}); });
    });
  }
}

// Of two, each takes the other for the slow one and goes around it, at once or one after the other;
// both come back.
TEST(SlowPair, CountsBothAgainSoonAfter) {
  for (const Duration delay : {0us, 500us, 1000us, 3000us}) {
    SCOPED_TRACE("after " + std::to_string(toSeconds(delay)) + " s");
    Workload work;
    work.ranks.resize(2);
    for (auto& rank : work.ranks) rank.options.patience = 1s;
    RoundShape shape;
    shape.numel = 4'000'000;
    work.ops.assign(5, shape);
    shape.numel = 200'000;
    for (int i = 0; i < 40; ++i) {
      work.ops.push_back(shape);
      work.not_before[Seq{work.ops.size()}] = Instant{} + 7s + i * 20ms;
    }
    World world(work, 1);
    world.checker().mark(kVictim);
    world.checker().mark(Rank{0});
    const auto rate = [&](double bytes_per_second) {
      world.network().setRate(Rank{0}, kVictim, bytes_per_second);
      world.network().setRate(kVictim, Rank{0}, bytes_per_second);
    };
    world.onEnter(kVictim, Seq{3}, delay, [&] {
      world.noteFired();
      rate(125e3);
      world.at(world.now().time_since_epoch() + 4500ms, [&] { rate(2e9); });
    });
    world.run();
    for (const auto& violation : world.checker().violations()) ADD_FAILURE() << violation;
    std::uint64_t without = 0;
    for (const auto& done : world.returns()) {
      const bool complete = done.round.report.outcome == fault::Outcome::complete;
      without += complete ? 0 : 1;
      if (done.round.seq.value > 25) {
        EXPECT_TRUE(complete) << "seq " << done.round.seq.value;
      }
    }
    EXPECT_GT(without, 2u) << "neither missed the other";
  }
}

// The reducer's result reaches one member before its link breaks. That one waits in the next round
// for those that wait for the result, and then not once more for the reducer.
TEST(HalfAResult, CostsOnePatience) {
  for (std::uint64_t seq = 4; seq < 12; ++seq) {
    Workload work;
    work.ranks.resize(4);
    for (auto& rank : work.ranks) rank.options.patience = 1s;
    RoundShape shape;
    shape.numel = 20;
    work.ops.assign(seq + 8, shape);
    World world(work, seq);
    const Rank victim = Layout(20, 4, 4, Seq{seq}).owner(ChunkIndex{0});
    const Rank lucky{(victim.value + 1) % 4};
    world.checker().mark(victim);
    world.onEnter(victim, Seq{seq}, 0us, [&, victim, lucky] {
      for (std::uint32_t r = 0; r < 4; ++r) {
        if (Rank{r} != victim && Rank{r} != lucky) world.block(victim, Rank{r}, 10s);
      }
      world.at(world.now().time_since_epoch() + 900us,
               [&, victim, lucky] { world.block(victim, lucky, 10s); });
    });
    world.run();
    for (const auto& violation : world.checker().violations()) ADD_FAILURE() << violation;
    for (const auto& done : world.returns()) {
      if (done.rank == victim) continue;
      const bool its = done.rank == lucky && done.round.seq == Seq{seq};
      if (its) {
        EXPECT_LT(done.round.active, 100ms) << "it did not get the result";
      }
      EXPECT_LE(done.round.active, 1600ms)
          << "seq " << seq << ", rank " << done.rank.value << " in " << done.round.seq.value;
    }
  }
}

// Contributions and results trickle in, each in time. All of them together have a limit too.
TEST(SlowReducer, MayNotMakeOthersWaitForEver) {
  Workload work;
  work.ranks.resize(3);
  RoundShape shape;
  shape.numel = 3'000'000;  // 4 MB from each reducer, in 16 chunks
  work.ops.assign(2, shape);
  World world(work, 1);
  world.checker().mark(kVictim);
  world.onEnter(kVictim, Seq{2}, 1ms, [&] {
    world.noteFired();
    for (const Rank to : {Rank{0}, Rank{2}}) world.slowLink(kVictim, to, 3e5);
  });
  world.run();
  EXPECT_GT(world.fired(), 0u);
  for (const auto& violation : world.checker().violations()) ADD_FAILURE() << violation;
  for (const auto& done : world.returns()) {
    if (done.rank == kVictim || done.round.seq != Seq{2}) continue;
    // Contributions: 5 s + 12 MB / 1 MB/s. Results: 5.25 s + 4 MB / 1 MB/s, from when their reducer
    // waits for no contribution any more (what gives it credits comes over the slow link as well).
    EXPECT_LE(done.round.active, 17s + 9250ms) << "rank " << done.rank.value;
    EXPECT_GE(done.round.active, 5s) << "it did not trickle";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, LinkTest,
    testing::Combine(testing::Values(2u, 4u, 8u), testing::Values(1000u, 20'000u),
                     testing::Values(Duration{300ms}, Duration{1300ms}, Duration{1800ms})));

}  // namespace
}  // namespace papilio::sim
