// Dead, frozen, slow and silent peers: bounded rounds, explained values, bounded memory.
#include <gtest/gtest.h>

#include <thread>

#include "engine/cluster.hpp"
#include "engine/oracle.hpp"

namespace papilio::engine::testing {
namespace {

struct Round {
  std::vector<Bytes> inputs;
  std::vector<Bytes> tensors;
  std::vector<Pending> pending;
};

// The tensors belong to the cluster.
Round& start(Cluster& cluster, std::uint64_t numel, const std::vector<std::uint32_t>& ranks,
             unsigned seed = 1) {
  const auto owner = std::make_shared<Round>();
  cluster.kept.push_back(owner);
  Round& out = *owner;
  for (std::uint32_t r = 0; r < cluster.size(); ++r) {
    out.inputs.push_back(randomFloating(DType::float32, numel, seed * 100 + r));
  }
  out.tensors = out.inputs;
  for (const auto r : ranks) {
    out.pending.push_back(allreduce(*cluster.groups[r], out.tensors[r].data(), tolerant(numel)));
  }
  return out;
}

// The report explains every element.
void expectExplained(Cluster& cluster, Round& round, std::uint32_t rank, const Completion& done) {
  ASSERT_FALSE(done.error) << done.error.text;
  const auto expected =
      explain(done.report, round.inputs, std::vector<float>(cluster.size(), 1.0F), rank);
  const auto numel = done.report.shape.numel;
  EXPECT_EQ(firstDifference(DType::float32, round.tensors[rank].data(), expected.data(), numel),
            numel)
      << "rank " << rank;
}

TEST(Dead, InTheMiddleOfARoundAndBeforeTheNext) {
  Cluster cluster(4);
  cluster.network.stall(2, 0);  // its data to rank 0 is still on its way when it dies
  auto& round = start(cluster, 400'000, {0, 1, 2, 3});
  ASSERT_TRUE(eventually([&] { return cluster.stat(1, "bytes.received") > 0; }));
  cluster.network.kill(2);
  for (const std::uint32_t r : {0u, 1u, 3u}) {
    const auto done = get(round.pending[r]);
    expectExplained(cluster, round, r, done);
    if (r == 0) {
      EXPECT_EQ(done.report.outcome, fault::Outcome::degraded);
      EXPECT_EQ(done.report.blamed.at(Rank{2}), fault::Reason::dead);
    }
  }
  // Patience is two minutes: whoever waited for the dead would fail the whole test.
  for (unsigned i = 0; i < 20; ++i) {
    auto& next = start(cluster, 10'000, {0, 1, 3}, i + 2);
    for (std::size_t k = 0; k < 3; ++k) {
      const std::uint32_t r = k == 2 ? 3 : static_cast<std::uint32_t>(k);
      const auto done = get(next.pending[k]);
      expectExplained(cluster, next, r, done);
    }
  }
}

TEST(Dead, AllOthers) {
  Cluster cluster(3);
  auto& round = start(cluster, 100'000, {0});
  cluster.network.kill(1);
  cluster.network.kill(2);
  const auto done = get(round.pending[0]);
  EXPECT_EQ(done.report.outcome, fault::Outcome::local);
  EXPECT_EQ(round.tensors[0], round.inputs[0]) << "AVG of oneself";
}

TEST(Dead, AStrictCollectiveNamesTheCulprit) {
  std::vector<Bytes> mine(3, Bytes(500'000, std::byte{1}));
  std::vector<std::vector<Bytes>> theirs(3);
  Cluster cluster(3);
  cluster.network.stall(2, 0);
  std::vector<Pending> pending;
  for (std::uint32_t r = 0; r < 3; ++r) {
    pending.push_back(strict(*cluster.groups[r], allgatherRequest(3, mine[r], theirs[r])));
  }
  ASSERT_TRUE(eventually([&] { return cluster.stat(0, "bytes.received") > 0; }));
  cluster.network.kill(2);
  const auto done = get(pending[0]);
  EXPECT_EQ(done.error.kind, fault::ErrorKind::peer_failed);
  EXPECT_TRUE(done.error.ranks.contains(Rank{2}));
  EXPECT_NE(done.error.text.find("2"), std::string::npos);
  get(pending[1]);
}

TEST(Dead, ABrokenLaneIsAnUnreachablePeer) {
  Cluster cluster(3);
  auto& round = start(cluster, 100'000, {0, 2});
  cluster.network.breakLane(0, 1);
  cluster.network.breakLane(2, 1);
  for (const std::size_t k : {0u, 1u}) {
    const std::uint32_t r = k == 0 ? 0 : 2;
    const auto done = get(round.pending[k]);
    expectExplained(cluster, round, r, done);
    EXPECT_EQ(done.report.blamed.at(Rank{1}), fault::Reason::unreachable);
  }
}

TEST(Frozen, OneRoundCostsPatienceTheNextCostNothing) {
  Cluster cluster(3, hasty(500ms));
  auto& warm = start(cluster, 100'000, {0, 1, 2});
  for (auto& each : warm.pending) get(each);
  cluster.network.freeze(2);
  const auto begin = std::chrono::steady_clock::now();
  auto& round = start(cluster, 400'000, {0, 1}, 2);
  for (const std::uint32_t r : {0u, 1u}) {
    const auto done = get(round.pending[r]);
    expectExplained(cluster, round, r, done);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
  const auto hit = std::chrono::steady_clock::now();
  for (unsigned i = 0; i < 10; ++i) {
    auto& next = start(cluster, 1000, {0, 1}, 3 + i);
    for (const std::uint32_t r : {0u, 1u}) {
      const auto done = get(next.pending[r]);
      expectExplained(cluster, next, r, done);
    }
  }
  EXPECT_LT(std::chrono::steady_clock::now() - hit, 5s) << "ten rounds, not ten patiences";
}

// The frozen rank comes back in the middle of a job: right values again, and it blames nobody.
TEST(Frozen, AndBack) {
  Cluster cluster(3, hasty(400ms));
  for (unsigned i = 0; i < 3; ++i) {
    auto& warm = start(cluster, 50'000, {0, 1, 2}, i);
    for (auto& each : warm.pending) get(each);
  }
  cluster.network.freeze(2);
  const auto frozen = std::chrono::steady_clock::now();
  auto& round = start(cluster, 50'000, {0, 1, 2}, 9);
  for (const std::uint32_t r : {0u, 1u}) get(round.pending[r]);
  // The stop itself: a shorter one can hide in the engine's longest nap, which is a second.
  std::this_thread::sleep_until(frozen + 1400ms);
  cluster.network.thaw(2);
  const auto done = get(round.pending[2]);
  expectExplained(cluster, round, 2, done);
  EXPECT_GE(cluster.stat(2, "pauses"), 1.0);
  EXPECT_TRUE(cluster.groups[2]->blacklist().empty());
  ASSERT_TRUE(eventually([&, i = 20u]() mutable {
    auto& next = start(cluster, 50'000, {0, 1, 2}, ++i);
    bool complete = true;
    for (std::uint32_t r = 0; r < 3; ++r) {
      const auto ended = get(next.pending[r]);
      expectExplained(cluster, next, r, ended);
      complete = complete && ended.report.outcome == fault::Outcome::complete;
    }
    return complete;
  }));
}

// Its window of sends stays out and its results wait, whatever the number of rounds.
TEST(Frozen, MemoryDoesNotGrow) {
  Cluster cluster(3, hasty(200ms));
  cluster.network.freeze(2);
  double early = 0;
  double late = 0;
  constexpr unsigned kRounds = 60;
  for (unsigned i = 0; i < kRounds; ++i) {
    auto& round = start(cluster, 1'000'000, {0, 1}, i);
    for (auto& each : round.pending) get(each);
    cluster.kept.clear();
    const double held = cluster.stat(0, "staging.bytes_held");
    (i < kRounds / 2 ? early : late) = std::max(i < kRounds / 2 ? early : late, held);
  }
  EXPECT_LT(late, 100.0 * (1 << 20));
  EXPECT_LE(late, early * 1.25) << "it still grows";
  EXPECT_LE(cluster.stat(0, "queue.bytes_in_flight"), 6.0 * (1 << 20));
}

// Many frozen peers together must not hold the staging memory that the live ones need.
TEST(Frozen, AMajorityDoesNotStarveTheLive) {
  constexpr std::uint32_t kSize = 16;
  Cluster cluster(kSize, hasty(300ms));
  for (std::uint32_t r = 2; r < kSize; ++r) cluster.network.freeze(r);
  for (unsigned i = 0; i < 4; ++i) {
    auto& round = start(cluster, 3'000'000, {0, 1}, i);
    for (const std::uint32_t r : {0u, 1u}) {
      const auto done = get(round.pending[r]);
      expectExplained(cluster, round, r, done);
      if (i == 3) {
        std::uint64_t shared = 0;
        for (const auto& chunk : done.report.chunks) {
          const bool both =
              chunk.contributors.contains(Rank{0}) && chunk.contributors.contains(Rank{1});
          shared += both ? chunk.stop - chunk.start : 0;
        }
        EXPECT_GT(shared, 300'000u) << "the two live ranks average their own shards";
      }
    }
  }
}

TEST(Teardown, WithADeadAFrozenAndASlowPeer) {
  for (const int kind : {0, 1, 2}) {
    Cluster cluster(3);
    auto& round = start(cluster, 800'000, {0, 1});
    if (kind == 0) cluster.network.kill(2);
    if (kind == 1) cluster.network.freeze(2);
    if (kind == 2) cluster.network.stall(0, 2);
    const auto begin = std::chrono::steady_clock::now();
    cluster.groups[0]->leave();
    EXPECT_TRUE(cluster.groups[0]->aborted());
    cluster.groups[0]->leave();  // again: nothing
    cluster.engines[0]->shutdown();
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 2s) << kind;
    get(round.pending[0]);
  }
}

TEST(Teardown, ShutdownWithoutLeavingEndsEverything) {
  Cluster cluster(2);
  auto& round = start(cluster, 800'000, {0});
  const auto begin = std::chrono::steady_clock::now();
  cluster.engines[0]->shutdown();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 2s);
  EXPECT_EQ(get(round.pending[0]).error.kind, fault::ErrorKind::aborted);
  std::vector<float> tensor(10);
  auto refused = allreduce(*cluster.groups[0], tensor, tolerant(10));
  EXPECT_EQ(get(refused).error.kind, fault::ErrorKind::aborted);
  EXPECT_TRUE(cluster.engines[0]->stats().empty());
  EXPECT_TRUE(cluster.groups[0]->peers().empty());
  EXPECT_THROW(cluster.engines[0]->createGroup(cluster.configFor(9, 0, {0})), std::runtime_error);
}

// The next round of the other two goes without rank 2, and says so.
void expectRank2Left(Cluster& cluster) {
  auto& next = start(cluster, 50'000, {0, 1}, 2);
  for (const std::uint32_t r : {0u, 1u}) {
    const auto done = get(next.pending[r]);
    expectExplained(cluster, next, r, done);
    EXPECT_EQ(done.report.blamed.at(Rank{2}), fault::Reason::left);
  }
}

TEST(Teardown, APeerThatLeftIsNotWaitedForNorBlamedForDying) {
  Cluster cluster(3);
  auto& round = start(cluster, 50'000, {0, 1, 2});
  for (auto& each : round.pending) get(each);
  cluster.groups[2]->leave();
  expectRank2Left(cluster);
}

// A process that ends in good order closes both lanes; the end of the data lane may be seen first.
TEST(Teardown, WhoseLaneBreaksJustBeforeItsGoodbyeHasLeft) {
  Cluster cluster(3);
  auto& round = start(cluster, 50'000, {0, 1, 2});
  for (auto& each : round.pending) get(each);
  for (const std::size_t other : {0u, 1u}) cluster.network.breakLane(other, 2);
  cluster.engines[2]->shutdown();
  expectRank2Left(cluster);
}

}  // namespace
}  // namespace papilio::engine::testing
