// Views: slots without a process, boundaries that wait for a decision, and who comes too late.
#include <gtest/gtest.h>

#include <thread>

#include "engine/cluster.hpp"

namespace papilio::engine::testing {
namespace {

// Slot 3 of 4 has no process.
std::vector<std::shared_ptr<Group>> withAbsentSlot(Cluster& cluster, std::uint32_t id) {
  std::vector<std::shared_ptr<Group>> out;
  for (std::uint32_t r = 0; r < 3; ++r) {
    auto config = cluster.configFor(id, r, {0, 1, 2});
    config.size = 4;
    config.records.emplace_back();
    config.absent.insert(Rank{3});
    config.view = ViewNumber{5};
    config.options = patient();
    out.push_back(cluster.engines[r]->createGroup(std::move(config)));
  }
  for (auto& group : out) EXPECT_TRUE(group->waitReady(kPatience).empty());
  return out;
}

TEST(Views, WhoIsAbsentOwnsNothingAndIsNotMissed) {
  Cluster cluster(3);
  auto groups = withAbsentSlot(cluster, 77);
  for (const std::uint64_t numel : {20ULL, 300'000ULL}) {
    std::vector<std::vector<float>> tensors;
    std::vector<Pending> pending;
    for (std::uint32_t r = 0; r < 3; ++r) {
      tensors.emplace_back(numel, 3.0F * static_cast<float>(r + 1));
    }
    for (std::uint32_t r = 0; r < 3; ++r) {
      pending.push_back(allreduce(*groups[r], tensors[r], tolerant(numel)));
    }
    for (std::uint32_t r = 0; r < 3; ++r) {
      const auto done = get(pending[r]);
      EXPECT_EQ(done.report.outcome, fault::Outcome::complete);
      EXPECT_EQ(done.report.view, ViewNumber{5});
      EXPECT_TRUE(done.report.blamed.empty());
      ASSERT_EQ(done.report.chunks.size(), 1U);
      EXPECT_EQ(done.report.chunks[0].contributors, ContributorSet::firstN(3));
      EXPECT_EQ(tensors[r], std::vector<float>(numel, 6.0F));
    }
  }
  EXPECT_EQ(groups[0]->peers()[3].state, fault::PeerState::dead);
}

TEST(Views, WhatNeedsAnAbsentSlotFailsAndNamesIt) {
  Cluster cluster(3);
  auto groups = withAbsentSlot(cluster, 78);
  std::vector<std::byte> mine(10);
  std::vector<std::vector<std::byte>> theirs(4, std::vector<std::byte>(10));
  for (auto& group : groups) {
    auto pending = strict(*group, allgatherRequest(4, mine, theirs));
    const auto done = get(pending);
    EXPECT_EQ(done.error.kind, fault::ErrorKind::peer_failed);
    EXPECT_EQ(done.error.ranks.ranks(), std::vector<Rank>{Rank{3}});
  }
}

TEST(Views, ABoundaryPassesAtOnceUntilSomethingChanges) {
  Cluster cluster(3, hasty(2s));
  for (int i = 0; i < 1000; ++i) {
    for (auto& group : cluster.groups) {
      ASSERT_EQ(group->boundary().kind, Boundary::Kind::pass);
    }
  }
  cluster.network.kill(2);
  std::vector<Boundary> last(2);
  std::vector<int> passed(2);
  std::vector<std::thread> ranks;
  for (std::size_t r = 0; r < 2; ++r) {
    ranks.emplace_back([&, r] {
      while ((last[r] = cluster.groups[r]->boundary()).kind == Boundary::Kind::pass) {
        ++passed[r];
        // Ranks that train meet in every step.
        std::vector<float> tensor(20);
        auto pending = allreduce(*cluster.groups[r], tensor, tolerant(20));
        get(pending);
      }
    });
  }
  for (auto& rank : ranks) rank.join();
  for (std::size_t r = 0; r < 2; ++r) {
    ASSERT_EQ(last[r].kind, Boundary::Kind::install) << r;
    EXPECT_EQ(last[r].next, last[0].next);
    EXPECT_EQ(last[r].next.members, ContributorSet::firstN(2));
    EXPECT_EQ(last[r].next.step, 1000U + static_cast<unsigned>(passed[r]) + 1);
  }
}

TEST(Views, AbortEndsAWaitAtABoundary) {
  Cluster cluster(3, hasty(60s));
  cluster.network.freeze(1);  // its promise does not come, and patience is long
  cluster.groups[0]->boundary();
  cluster.network.kill(2);
  std::atomic<bool> over{false};
  Boundary answer;
  std::thread rank([&] {
    while (answer.kind == Boundary::Kind::pass) answer = cluster.groups[0]->boundary();
    over = true;
  });
  ASSERT_TRUE(eventually([&] { return cluster.groupStat(0, "view_change_under_way") > 0; }));
  EXPECT_FALSE(over);
  cluster.groups[0]->abort("the test says so");
  rank.join();
  EXPECT_EQ(answer.kind, Boundary::Kind::ended);
  // Nor does one begin after it.
  EXPECT_EQ(cluster.groups[0]->boundary().kind, Boundary::Kind::ended);
  cluster.network.thaw(1);
}

TEST(Views, WhoComesTooLateIsToldToLeave) {
  Cluster cluster(2);
  const std::vector<std::size_t> nodes{0, 1};
  auto first = cluster.engines[0]->createGroup(cluster.configFor(80, 0, nodes));
  ContributorSet late;
  late.insert(Rank{1});
  first->giveUpOn(late, "it did not come");
  EXPECT_TRUE(first->waitReady(kPatience).size() <= 1);
  auto second = cluster.engines[1]->createGroup(cluster.configFor(80, 1, nodes));
  EXPECT_TRUE(eventually([&] { return second->peers()[0].state == fault::PeerState::left; }));
}

}  // namespace
}  // namespace papilio::engine::testing
