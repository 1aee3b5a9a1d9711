// Fault-free collectives of engines on the fake network, against the oracle.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "engine/cluster.hpp"
#include "engine/oracle.hpp"

namespace papilio::engine::testing {
namespace {

struct Case {
  DType dtype;
  ReduceOp op;
};

class Exactness : public ::testing::TestWithParam<Case> {};

TEST_P(Exactness, EveryElementOnEveryRank) {
  const auto [dtype, op] = GetParam();
  const double premul = op == ReduceOp::premul_sum ? 0.3 : 1.0;
  for (const std::uint32_t n : {1u, 2u, 3u, 5u}) {
    Cluster cluster(n);
    // One element, fewer than ranks, one small chunk, many chunks with a ragged end.
    for (const std::uint64_t numel : {1, 2, 1000, 70'001}) {
      std::vector<Bytes> inputs;
      for (std::uint32_t r = 0; r < n; ++r) {
        inputs.push_back(randomFloating(dtype, numel, r * 31 + static_cast<unsigned>(numel)));
      }
      auto tensors = inputs;
      std::vector<Pending> pending;
      for (std::uint32_t r = 0; r < n; ++r) {
        pending.push_back(
            allreduce(*cluster.groups[r], tensors[r], tolerant(numel, dtype, op, premul)));
      }
      for (std::uint32_t r = 0; r < n; ++r) {
        const auto done = get(pending[r]);
        ASSERT_FALSE(done.error) << done.error.text;
        EXPECT_EQ(done.report.outcome, fault::Outcome::complete);
        for (const auto& chunk : done.report.chunks) {
          EXPECT_EQ(chunk.contributors, ContributorSet::firstN(n));
        }
        const auto expected = explain(done.report, inputs, std::vector<float>(n, 1.0F), r);
        ASSERT_EQ(firstDifference(dtype, tensors[r].data(), expected.data(), numel), numel)
            << "rank " << r << " of " << n;
      }
    }
  }
}

std::vector<Case> allCases() {
  std::vector<Case> out;
  for (const auto dtype : {DType::float16, DType::bfloat16, DType::float32, DType::float64}) {
    for (const auto op : {ReduceOp::sum, ReduceOp::avg, ReduceOp::premul_sum}) {
      out.push_back({dtype, op});
    }
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(Types, Exactness, ::testing::ValuesIn(allCases()),
                         [](const auto& instance) {
                           return std::string(name(instance.param.dtype)) + "_" +
                                  std::string(name(instance.param.op));
                         });

TEST(Allreduce, WeightsCount) {
  const std::vector<float> weights{1.0F, 3.0F, 0.5F};
  Cluster cluster(3, [&](std::uint32_t rank) {
    auto options = patient();
    options.weight = weights[rank];
    return options;
  });
  for (const auto op : {ReduceOp::avg, ReduceOp::sum}) {
    std::vector<Bytes> inputs;
    for (unsigned r = 0; r < 3; ++r) inputs.push_back(randomFloating(DType::float32, 50'000, r));
    auto tensors = inputs;
    std::vector<Pending> pending;
    for (unsigned r = 0; r < 3; ++r) {
      pending.push_back(
          allreduce(*cluster.groups[r], tensors[r], tolerant(50'000, DType::float32, op)));
    }
    for (unsigned r = 0; r < 3; ++r) {
      const auto done = get(pending[r]);
      EXPECT_DOUBLE_EQ(done.report.chunks.at(0).weight, 4.5);
      const auto expected = explain(done.report, inputs, weights, r);
      EXPECT_EQ(firstDifference(DType::float32, tensors[r].data(), expected.data(), 50'000),
                50'000u);
    }
  }
}

TEST(Allreduce, ManyRoundsInFlightKeepTheirOrder) {
  constexpr int kRounds = 60;
  Cluster cluster(3);
  std::vector<std::vector<std::vector<float>>> tensors(3);
  std::vector<std::vector<Pending>> pending(3);
  for (int round = 0; round < kRounds; ++round) {
    for (std::size_t r = 0; r < 3; ++r) {
      const auto numel = static_cast<std::size_t>(1 + (round * 7919) % 40'000);
      tensors[r].emplace_back(numel, static_cast<float>(round * 10 + static_cast<int>(r)));
    }
  }
  for (std::size_t r = 0; r < 3; ++r) {
    for (auto& tensor : tensors[r]) {
      pending[r].push_back(allreduce(*cluster.groups[r], tensor, tolerant(tensor.size())));
    }
  }
  for (std::size_t r = 0; r < 3; ++r) {
    for (int round = 0; round < kRounds; ++round) {
      const auto done = get(pending[r][static_cast<std::size_t>(round)]);
      EXPECT_EQ(done.seq, Seq{static_cast<std::uint64_t>(round) + 1});
      const auto& tensor = tensors[r][static_cast<std::size_t>(round)];
      const auto mean = static_cast<float>(round * 10 + 1);
      EXPECT_EQ(std::count(tensor.begin(), tensor.end(), mean),
                static_cast<std::ptrdiff_t>(tensor.size()));
    }
  }
  EXPECT_EQ(cluster.groupStat(0, "rounds.complete"), kRounds);
  EXPECT_EQ(cluster.groups[0]->reports(5).size(), 5u);
  EXPECT_EQ(cluster.groups[0]->reports(5).back().seq, Seq{kRounds});
  EXPECT_TRUE(cluster.groups[0]->report(Seq{kRounds}).has_value());
  EXPECT_FALSE(cluster.groups[0]->report(Seq{kRounds + 1}).has_value());
}

// What stays is what a late rank could still want of the newest rounds; twenty of them are 24 MB.
TEST(Allreduce, MemoryComesBack) {
  Cluster cluster(3);
  const auto run = [&](std::size_t numel) {
    std::vector<std::vector<float>> tensors(3, std::vector<float>(numel, 1.0F));
    std::vector<Pending> pending;
    for (std::size_t r = 0; r < 3; ++r) {
      pending.push_back(allreduce(*cluster.groups[r], tensors[r], tolerant(numel)));
    }
    for (auto& each : pending) get(each);
  };
  for (int round = 0; round < 20; ++round) run(300'000);
  for (int round = 0; round < 3; ++round) run(10);
  for (std::size_t r = 0; r < 3; ++r) {
    double in_use = 0;
    EXPECT_TRUE(eventually(
        [&] {
          in_use = cluster.stat(r, "staging.bytes_in_use");
          return in_use <= 4 << 20;
        },
        10s))
        << in_use;
    EXPECT_TRUE(eventually([&] { return cluster.stat(r, "queue.bytes_in_flight") == 0; }, 10s));
    EXPECT_LE(cluster.stat(r, "staging.bytes_held"), 32.0 * (1 << 20));
  }
}

TEST(Strict, AllgatherAndBroadcast) {
  for (const std::uint32_t n : {1u, 2u, 4u}) {
    Cluster cluster(n);
    for (const std::size_t size : {std::size_t{0}, std::size_t{5}, std::size_t{700'001}}) {
      std::vector<Bytes> mine;
      std::vector<std::vector<Bytes>> theirs(n);
      std::vector<Pending> pending;
      for (std::uint32_t r = 0; r < n; ++r) mine.emplace_back(size, std::byte(r + 1));
      for (std::uint32_t r = 0; r < n; ++r) {
        pending.push_back(strict(*cluster.groups[r], allgatherRequest(n, mine[r], theirs[r])));
      }
      for (std::uint32_t r = 0; r < n; ++r) {
        const auto done = get(pending[r]);
        ASSERT_FALSE(done.error) << done.error.text;
        for (std::uint32_t k = 0; k < n; ++k) {
          if (k != r) {
            EXPECT_EQ(theirs[r][k], mine[k]);
          }
        }
      }
      const std::uint32_t root = n - 1;
      std::vector<Bytes> data(n, Bytes(size, std::byte{9}));
      std::fill(data[root].begin(), data[root].end(), std::byte{77});
      std::vector<Pending> casts;
      for (std::uint32_t r = 0; r < n; ++r) {
        casts.push_back(strict(*cluster.groups[r], broadcastRequest(n, r, root, data[r])));
      }
      for (auto& each : casts) EXPECT_FALSE(get(each).error);
      for (std::uint32_t r = 0; r < n; ++r) EXPECT_EQ(data[r], Bytes(size, std::byte{77}));
    }
  }
}

TEST(Strict, DifferentShapesFailOnBothSidesInsteadOfHanging) {
  Cluster cluster(2);
  std::vector<Bytes> mine{Bytes(10), Bytes(11)};
  std::vector<std::vector<Bytes>> theirs(2);
  std::vector<Pending> pending;
  for (std::uint32_t r = 0; r < 2; ++r) {
    pending.push_back(strict(*cluster.groups[r], allgatherRequest(2, mine[r], theirs[r])));
  }
  for (auto& each : pending) {
    EXPECT_EQ(get(each).error.kind, fault::ErrorKind::schema_mismatch);
  }
}

TEST(Groups, SeveralOnOneEngineDoNotMix) {
  Cluster cluster(4);
  auto pair = cluster.addGroup(2, {1, 3});
  auto reversed = cluster.addGroup(3, {3, 2, 1, 0});
  for (int round = 0; round < 10; ++round) {
    std::vector<std::vector<float>> a(4), b(2), c(4);
    std::vector<Pending> pending;
    for (std::size_t r = 0; r < 4; ++r) a[r].assign(30'000, static_cast<float>(r));
    for (std::size_t r = 0; r < 2; ++r) b[r].assign(20'000, static_cast<float>(10 * r));
    for (std::size_t r = 0; r < 4; ++r) c[r].assign(100, static_cast<float>(100 * r));
    for (std::size_t r = 0; r < 4; ++r) {
      pending.push_back(allreduce(*cluster.groups[r], a[r], tolerant(30'000)));
      pending.push_back(allreduce(*reversed[r], c[r], tolerant(100)));
    }
    for (std::size_t r = 0; r < 2; ++r) {
      pending.push_back(allreduce(*pair[r], b[r], tolerant(20'000)));
    }
    for (auto& each : pending) ASSERT_EQ(get(each).report.outcome, fault::Outcome::complete);
    for (const auto& tensor : a) EXPECT_EQ(tensor, std::vector<float>(30'000, 1.5F));
    for (const auto& tensor : b) EXPECT_EQ(tensor, std::vector<float>(20'000, 5.0F));
    for (const auto& tensor : c) EXPECT_EQ(tensor, std::vector<float>(100, 150.0F));
  }
}

TEST(Groups, SubmissionsFromSeveralThreads) {
  constexpr std::size_t kThreads = 4;
  constexpr int kRounds = 25;
  Cluster cluster(2);
  std::vector<std::vector<std::shared_ptr<Group>>> groups;
  for (std::uint32_t t = 0; t < kThreads; ++t) groups.push_back(cluster.addGroup(10 + t, {0, 1}));
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (std::size_t t = 0; t < kThreads; ++t) {
    for (std::size_t r = 0; r < 2; ++r) {
      threads.emplace_back([&, t, r] {
        for (int round = 0; round < kRounds; ++round) {
          std::vector<float> tensor(5'000, static_cast<float>(t) + static_cast<float>(r));
          auto pending = allreduce(*groups[t][r], tensor, tolerant(5'000));
          get(pending);
          const bool good = tensor == std::vector<float>(5'000, static_cast<float>(t) + 0.5F);
          right += good ? 1 : 0;
          groups[t][r]->peers();
          cluster.engines[r]->stats();
        }
      });
    }
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, static_cast<int>(kThreads) * 2 * kRounds);
}

TEST(Groups, TheSameIdentityTwiceIsRefused) {
  Cluster cluster(2);
  EXPECT_THROW(cluster.engines[0]->createGroup(cluster.configFor(1, 0, {0, 1})),
               std::invalid_argument);
  std::vector<std::vector<float>> tensors(2, std::vector<float>(10, 2.0F));
  std::vector<Pending> pending;
  for (std::size_t r = 0; r < 2; ++r) {
    pending.push_back(allreduce(*cluster.groups[r], tensors[r], tolerant(10)));
  }
  for (auto& each : pending) EXPECT_FALSE(get(each).error);
  for (auto& group : cluster.groups) group->leave();
  cluster.groups = cluster.addGroup(1, {0, 1});  // free again
}

TEST(Groups, ImpossibleSizesAreRefused) {
  Cluster cluster(1);
  auto config = cluster.configFor(7, 0, {0});
  config.rank = Rank{1};
  EXPECT_THROW(cluster.engines[0]->createGroup(config), std::invalid_argument);
  config.rank = Rank{0};
  config.size = 2;
  EXPECT_THROW(cluster.engines[0]->createGroup(config), std::invalid_argument);
  config.size = 0;
  EXPECT_THROW(cluster.engines[0]->createGroup(config), std::invalid_argument);
}

// A record that is none: that rank is gone at once, with the reason; the group is usable.
TEST(Groups, ABrokenRecord) {
  Cluster cluster(1);
  auto config = cluster.configFor(7, 0, {0});
  config.size = 2;
  config.records.push_back("rubbish");
  auto group = cluster.engines[0]->createGroup(config);
  const auto missing = group->waitReady(kPatience);
  ASSERT_EQ(missing.size(), 1U);  // named at once, with the reason
  EXPECT_NE(missing.at(Rank{1}).find("rubbish"), std::string::npos) << missing.at(Rank{1});
  std::vector<float> tensor(10, 3.0F);
  auto pending = allreduce(*group, tensor, tolerant(10));
  const auto done = get(pending);
  EXPECT_EQ(done.report.outcome, fault::Outcome::local);
  EXPECT_EQ(tensor, std::vector<float>(10, 3.0F));
}

}  // namespace
}  // namespace papilio::engine::testing
