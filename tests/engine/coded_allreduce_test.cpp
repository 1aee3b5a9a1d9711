// All-reduces of engines with a codec: the same bits everywhere, errors within the codec's bounds,
// exact where the codec is.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "engine/cluster.hpp"
#include "engine/codec_oracle.hpp"

namespace papilio::engine::testing {
namespace {

fault::GroupOptions with(Codec codec) {
  auto options = patient();
  options.codec = codec;
  return options;
}

struct Round {
  std::vector<Bytes> inputs;
  std::vector<Bytes> tensors;
  std::vector<Completion> done;
};

Round run(Cluster& cluster, const RoundShape& shape, std::vector<Bytes> inputs) {
  Round out{inputs, std::move(inputs), {}};
  std::vector<Pending> pending;
  for (std::uint32_t r = 0; r < cluster.size(); ++r) {
    pending.push_back(allreduce(*cluster.groups[r], out.tensors[r].data(), shape));
  }
  for (auto& one : pending) out.done.push_back(get(one));
  return out;
}

// Every block has a largest magnitude of 127 on every rank and in every mean, and all differences
// between ranks are multiples of 12: exact in every codec, whoever is missing of up to four.
Bytes integers(DType dtype, std::uint64_t numel, std::uint32_t rank) {
  Bytes out(numel * elementSize(dtype));
  for (std::uint64_t i = 0; i < numel; ++i) {
    const auto base = static_cast<int>(i * 37 % 120) - 60;
    const auto own = static_cast<int>((i / 7 + rank * 5) % 5) * 12;
    storeFloating(dtype, out.data(), i, i % 64 == 0 ? 127 : base + own);
  }
  return out;
}

class Coded : public ::testing::TestWithParam<Codec> {};

TEST_P(Coded, ReplicasAreEqualAndErrorsBounded) {
  for (const std::uint32_t n : {1u, 2u, 3u, 5u}) {
    Cluster cluster(n, with(GetParam()));
    for (const auto dtype : {DType::float32, DType::float16, DType::bfloat16, DType::float64}) {
      // One element, below a block, one chunk with a tail, many chunks with a ragged end.
      for (const std::uint64_t numel : {1, 255, 1000, 300'007}) {
        std::vector<Bytes> inputs;
        for (std::uint32_t r = 0; r < n; ++r) {
          inputs.push_back(randomFloating(dtype, numel, r * 31 + static_cast<unsigned>(numel)));
        }
        const auto round = run(cluster, tolerant(numel, dtype), inputs);
        const auto exact = explain(round.done[0].report, inputs, std::vector<float>(n, 1.0F), 0);
        const Codec form = codecFor(GetParam(), elementSize(dtype), numel);
        // The tail of a shard may be below a block and travel raw: exact, and so within bounds.
        double largest = 0;
        for (const auto& input : inputs) {
          for (std::uint64_t i = 0; i < numel; ++i) {
            largest = std::max(largest, std::abs(loadFloating(dtype, input.data(), i)));
          }
        }
        for (std::uint32_t r = 0; r < n; ++r) {
          ASSERT_FALSE(round.done[r].error) << round.done[r].error.text;
          ASSERT_EQ(round.done[r].report.outcome, fault::Outcome::complete);
          ASSERT_EQ(round.tensors[r], round.tensors[0]) << "rank " << r << " of " << n;
        }
        for (std::uint64_t i = 0; i < numel; ++i) {
          const double mean = loadFloating(dtype, exact.data(), i);
          // Twice: the contributions, which may be larger than their mean, and the result.
          const double rounding = dtype == DType::bfloat16 ? 0x1p-7 : 0x1p-10;
          const double bound =
              form == Codec::raw ? 0.0 : 2 * halfStep(form, largest, largest) + rounding * largest;
          const double error = std::abs(loadFloating(dtype, round.tensors[0].data(), i) - mean);
          ASSERT_LE(error, bound) << name(dtype) << " " << numel << " element " << i;
        }
        if (form == Codec::raw) {
          ASSERT_EQ(firstDifference(dtype, round.tensors[0].data(), exact.data(), numel), numel);
        }
      }
    }
  }
}

TEST_P(Coded, SmallIntegersAreExact) {
  for (const std::uint32_t n : {2u, 3u, 4u}) {
    Cluster cluster(n, with(GetParam()));
    for (const auto op : {ReduceOp::avg, ReduceOp::sum}) {
      for (const std::uint64_t numel : {1000, 300'000}) {
        std::vector<Bytes> inputs;
        for (std::uint32_t r = 0; r < n; ++r) {
          inputs.push_back(integers(DType::float32, numel, r));
        }
        const auto round = run(cluster, tolerant(numel, DType::float32, op), inputs);
        for (std::uint32_t r = 0; r < n; ++r) {
          const auto exact = explain(round.done[r].report, inputs, std::vector<float>(n, 1.0F), r);
          // The largest sum of four is 4 * 127, and bfloat16 has 8 bits.
          if (GetParam() == Codec::bf16 && op == ReduceOp::sum) continue;
          ASSERT_EQ(firstDifference(DType::float32, round.tensors[r].data(), exact.data(), numel),
                    numel)
              << name(op) << " rank " << r << " of " << n;
        }
      }
    }
  }
}

TEST_P(Coded, ADeadRankIsLeftOutAndTheOthersAreExact) {
  Cluster cluster(4, with(GetParam()));
  constexpr std::uint64_t kNumel = 400'000;
  cluster.network.stall(2, 0);
  auto inputs = std::make_shared<std::vector<Bytes>>();
  for (std::uint32_t r = 0; r < 4; ++r) inputs->push_back(integers(DType::float32, kNumel, r));
  auto tensors = std::make_shared<std::vector<Bytes>>(*inputs);
  cluster.kept.push_back(tensors);
  std::vector<Pending> pending;
  for (std::uint32_t r = 0; r < 4; ++r) {
    pending.push_back(allreduce(*cluster.groups[r], (*tensors)[r].data(), tolerant(kNumel)));
  }
  ASSERT_TRUE(eventually([&] { return cluster.stat(1, "bytes.received") > 0; }));
  cluster.network.kill(2);
  for (const std::uint32_t r : {0u, 1u, 3u}) {
    const auto done = get(pending[r]);
    ASSERT_FALSE(done.error) << done.error.text;
    if (r == 0) {
      EXPECT_EQ(done.report.outcome, fault::Outcome::degraded);
    }
    const auto exact = explain(done.report, *inputs, std::vector<float>(4, 1.0F), r);
    ASSERT_EQ(firstDifference(DType::float32, (*tensors)[r].data(), exact.data(), kNumel), kNumel)
        << "rank " << r;
  }
}

TEST_P(Coded, AMinoritysNanIsDropped) {
  Cluster cluster(3, with(GetParam()));
  std::vector<Bytes> inputs;
  for (std::uint32_t r = 0; r < 3; ++r) inputs.push_back(integers(DType::float32, 300'000, r));
  for (const double bad : {std::nan(""), HUGE_VAL}) {
    auto damaged = inputs;
    // Its own shard, and one that another rank reduces.
    storeFloating(DType::float32, damaged[1].data(), 150'010, bad);
    storeFloating(DType::float32, damaged[1].data(), 290'000, bad);
    const auto round = run(cluster, tolerant(300'000), damaged);
    for (std::uint32_t r = 0; r < 3; ++r) {
      const auto exact = explain(round.done[r].report, damaged, std::vector<float>(3, 1.0F), r);
      ASSERT_EQ(firstDifference(DType::float32, round.tensors[r].data(), exact.data(), 300'000),
                300'000u);
      EXPECT_EQ(round.done[r].report.blamed.at(Rank{1}), fault::Reason::nonfinite);
      ASSERT_EQ(round.tensors[r], round.tensors[0]);
    }
  }
  EXPECT_GT(cluster.groupStat(2, "nonfinite_dropped"), 0);
}

TEST_P(Coded, SendsFewerBytes) {
  Cluster cluster(2, with(GetParam()));
  constexpr std::uint64_t kNumel = 1 << 20;
  std::vector<Bytes> inputs(2, Bytes(kNumel * 4));
  run(cluster, tolerant(kNumel), inputs);
  const double sent = cluster.stat(0, "bytes.sent");
  const double payload = static_cast<double>(payloadBytes(GetParam(), 4, kNumel));
  // Half of the tensor as contributions, the other half as results.
  EXPECT_GE(sent, payload);
  EXPECT_LE(sent, payload * 1.02);
}

INSTANTIATE_TEST_SUITE_P(All, Coded, ::testing::ValuesIn(kCodecs),
                         [](const auto& instance) { return std::string(name(instance.param)); });

TEST(CodedMismatch, TheOddOneIsToldWhy) {
  Cluster cluster(3,
                  [](std::uint32_t rank) { return with(rank == 2 ? Codec::int8 : Codec::bf16); });
  std::vector<Bytes> inputs(3, Bytes(40'000));
  const auto round = run(cluster, tolerant(10'000), inputs);
  EXPECT_FALSE(round.done[0].error);
  EXPECT_EQ(round.done[0].report.blamed.at(Rank{2}), fault::Reason::schema);
  const auto& error = round.done[2].error;
  EXPECT_EQ(error.kind, fault::ErrorKind::schema_mismatch);
  for (const char* part : {"codec=bf16", "this rank has", "codec=int8", "PAPILIO_CODEC"}) {
    EXPECT_NE(error.text.find(part), std::string::npos) << error.text;
  }
}

// Rank 0's elements are below half a step of its own block and are lost without error feedback.
// Where rank 1 reduces, their mean over many rounds must arrive all the same.
TEST(CodedFeedback, TinyElementsArriveOverManyRounds) {
  constexpr std::uint64_t kNumel = 300'000;
  constexpr int kRounds = 100;
  Cluster cluster(2, with(Codec::int8));
  Bytes tiny(kNumel * 4), zero(kNumel * 4);
  for (std::uint64_t i = 0; i < kNumel; ++i) {
    // Opposite large elements: the mean's own scale is small.
    storeFloating(DType::float32, tiny.data(), i, i % 64 == 0 ? 127.0 : 0.2);
    storeFloating(DType::float32, zero.data(), i, i % 64 == 0 ? -127.0 : 0.0);
  }
  std::vector<Bytes> tensors{tiny, zero};
  std::vector<double> sum(kNumel);
  for (int round = 0; round < kRounds; ++round) {
    std::memcpy(tensors[0].data(), tiny.data(), tiny.size());
    std::memcpy(tensors[1].data(), zero.data(), zero.size());
    std::vector<Pending> pending;
    for (std::uint32_t r = 0; r < 2; ++r) {
      pending.push_back(allreduce(*cluster.groups[r], tensors[r].data(), tolerant(kNumel)));
    }
    for (auto& one : pending) ASSERT_FALSE(get(one).error);
    ASSERT_EQ(tensors[0], tensors[1]);
    for (std::uint64_t i = 0; i < kNumel; ++i) {
      sum[i] += loadFloating(DType::float32, tensors[1].data(), i);
    }
  }
  for (std::uint64_t i = 0; i < kNumel; ++i) {
    if (i % 64 == 0) continue;
    ASSERT_NEAR(sum[i] / kRounds, 0.1, 0.01) << i;
  }
  EXPECT_GT(cluster.groupStat(0, "residual_bytes"), kNumel / 2);
  EXPECT_LT(cluster.groupStat(0, "residual_bytes"), kNumel / 2 * 1.05);
}

}  // namespace
}  // namespace papilio::engine::testing
