// Contributions that a reducer reads where their sender has staged them. The fake lane poisons them
// when they are let go: what is read later shows in the sum.
#include <gtest/gtest.h>

#include "engine/cluster.hpp"

namespace papilio::engine::testing {
namespace {

constexpr std::size_t kNumel = 300'000;

TEST(Held, ContributionsAreReadInPlace) {
  Cluster cluster(3);
  for (int round = 1; round <= 5; ++round) {
    std::vector<std::vector<float>> data;
    for (int node = 0; node < 3; ++node) {
      data.emplace_back(kNumel, static_cast<float>(3 * round * (node + 1)));
    }
    std::vector<Pending> pending;
    for (std::size_t node = 0; node < 3; ++node) {
      pending.push_back(allreduce(*cluster.groups[node], data[node], tolerant(kNumel)));
    }
    for (auto& call : pending) EXPECT_FALSE(get(call).error);
    for (const auto& values : data) {
      ASSERT_EQ(values, std::vector<float>(kNumel, static_cast<float>(6 * round)));
    }
  }
  for (std::size_t node = 0; node < 3; ++node) {
    EXPECT_GT(cluster.stat(node, "payloads_held"), 0.0);
  }
}

// Nodes 0 and 1 wait for node 2: what they hold of each other meanwhile is copied, and given back.
TEST(Held, NotWhileAnotherIsLate) {
  Cluster cluster(3);
  std::vector<std::vector<float>> data{std::vector<float>(kNumel, 3.0F),
                                       std::vector<float>(kNumel, 6.0F),
                                       std::vector<float>(kNumel, 9.0F)};
  std::vector<Pending> pending;
  for (std::size_t node = 0; node < 2; ++node) {
    pending.push_back(allreduce(*cluster.groups[node], data[node], tolerant(kNumel)));
  }
  for (std::size_t node = 0; node < 2; ++node) {
    EXPECT_TRUE(eventually([&] { return cluster.stat(node, "payloads_held_too_long") > 0; }));
  }
  pending.push_back(allreduce(*cluster.groups[2], data[2], tolerant(kNumel)));
  for (auto& call : pending) EXPECT_FALSE(get(call).error);
  for (const auto& values : data) ASSERT_EQ(values, std::vector<float>(kNumel, 6.0F));
}

}  // namespace
}  // namespace papilio::engine::testing
