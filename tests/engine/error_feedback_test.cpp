// What int8 rounds off comes back, once, and is bounded in size and in bytes.
#include "engine/error_feedback.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/codec.hpp"
#include "engine/codec_oracle.hpp"

namespace papilio::engine {
namespace {

using testing::Bytes;

struct Tensor {
  Tensor(std::uint64_t numel, DType dtype, const Bytes& values) : bytes(values) {
    shape.numel = numel;
    shape.dtype = dtype;
    shape.codec = Codec::int8;
  }
  ErrorFeedback::Source source(std::uint64_t seq, ChunkIndex chunk = ChunkIndex{0}) const {
    return {bytes.data(), &shape, chunk, bytes.data(), shape.numel, Seq{seq}};
  }
  Bytes staged(ErrorFeedback& feedback, std::uint64_t seq) const {
    Bytes out(payloadBytes(Codec::int8, elementSize(shape.dtype), shape.numel), std::byte{0xee});
    feedback.encode(source(seq), out.data());
    return out;
  }
  Bytes arrived(const Bytes& payload) const {
    return testing::decoded(Codec::int8, shape.dtype, payload.data(), shape.numel, DType::float32);
  }
  Bytes bytes;
  RoundShape shape;
};

// One large element makes a step of 1; the others are far below it.
Bytes tinyBesideLarge(DType dtype, std::uint64_t numel) {
  Bytes out(numel * elementSize(dtype));
  for (std::uint64_t i = 0; i < numel; ++i) {
    const double tiny = 0.01 + 0.4 * static_cast<double>(i % 251) / 251;
    testing::storeFloating(dtype, out.data(), i, i % kCodecBlock == 3 ? 127.0 : tiny);
  }
  return out;
}

TEST(ErrorFeedback, OverManyRoundsEverythingArrives) {
  constexpr std::uint64_t kNumel = 5003;
  constexpr int kRounds = 200;
  for (const auto dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    const Tensor tensor(kNumel, dtype, tinyBesideLarge(dtype, kNumel));
    ErrorFeedback feedback;
    std::vector<double> sum(kNumel);
    for (int round = 1; round <= kRounds; ++round) {
      const auto got = tensor.arrived(tensor.staged(feedback, static_cast<std::uint64_t>(round)));
      for (std::uint64_t i = 0; i < kNumel; ++i) {
        sum[i] += testing::loadFloating(DType::float32, got.data(), i);
      }
      feedback.counted(tensor.source(static_cast<std::uint64_t>(round)));
    }
    for (std::uint64_t i = 0; i < kNumel; ++i) {
      const double value = testing::loadFloating(dtype, tensor.bytes.data(), i);
      // Half a step is still on its way; the residual itself is kept in 8 bits.
      ASSERT_NEAR(sum[i] / kRounds, value, 0.6 / kRounds + 0.004) << i;
    }
  }
}

TEST(ErrorFeedback, StagingAgainChangesNothing) {
  const Tensor tensor(1000, DType::float32, tinyBesideLarge(DType::float32, 1000));
  ErrorFeedback feedback;
  Bytes plain(payloadBytes(Codec::int8, 4, 1000));
  encode(Codec::int8, DType::float32, tensor.bytes.data(), 1000, plain.data());
  EXPECT_EQ(tensor.staged(feedback, 1), plain);
  EXPECT_EQ(tensor.staged(feedback, 1), plain) << "nothing counted yet";
  feedback.counted(tensor.source(1));
  const auto second = tensor.staged(feedback, 2);
  EXPECT_NE(second, plain);
  EXPECT_EQ(tensor.staged(feedback, 2), second);
  EXPECT_EQ(tensor.staged(feedback, 3), second) << "round 2 was not counted";
}

TEST(ErrorFeedback, AnotherShapeOrAddressHasItsOwn) {
  const auto values = tinyBesideLarge(DType::float32, 1000);
  const Tensor a(1000, DType::float32, values), b(1000, DType::float32, values);
  ErrorFeedback feedback;
  const auto plain = a.staged(feedback, 1);
  feedback.counted(a.source(1));
  EXPECT_EQ(b.staged(feedback, 2), plain);
  Tensor c = a;
  c.shape.op = ReduceOp::avg;
  Bytes out(plain.size());
  auto source = c.source(2);
  source.tensor = a.bytes.data();
  feedback.encode(source, out.data());
  EXPECT_EQ(out, plain);
}

// Memory that another tensor had before: its residual may be larger than all of the new one.
TEST(ErrorFeedback, AReusedAddressCostsAStepAtMost) {
  constexpr std::uint64_t kNumel = 1000;
  Tensor tensor(kNumel, DType::float32, tinyBesideLarge(DType::float32, kNumel));
  ErrorFeedback feedback;
  feedback.counted(tensor.source(1));
  const auto next = testing::randomFloating(DType::float32, kNumel, 7);
  for (std::uint64_t i = 0; i < kNumel; ++i) {
    testing::storeFloating(DType::float32, tensor.bytes.data(), i,
                           testing::loadFloating(DType::float32, next.data(), i) * 1e-6);
  }
  const auto got = tensor.arrived(tensor.staged(feedback, 2));
  for (std::uint64_t i = 0; i < kNumel; ++i) {
    const double error = testing::loadFloating(DType::float32, got.data(), i) -
                         testing::loadFloating(DType::float32, tensor.bytes.data(), i);
    ASSERT_LE(std::abs(error), 1.6 * 5e-6 / 127) << "magnitudes are below 5e-6";
  }
}

TEST(ErrorFeedback, WhatIsNotFiniteLeavesNoTrace) {
  Tensor tensor(1000, DType::float32, tinyBesideLarge(DType::float32, 1000));
  const auto clean = tensor.bytes;
  ErrorFeedback feedback;
  testing::storeFloating(DType::float32, tensor.bytes.data(), 10, std::nan(""));
  testing::storeFloating(DType::float32, tensor.bytes.data(), 11, HUGE_VAL);
  const auto bad = tensor.staged(feedback, 1);
  EXPECT_TRUE(codedNonFinite(Codec::int8, DType::float32, bad.data(), 1000));
  feedback.counted(tensor.source(1));
  tensor.bytes = clean;  // same size: same address
  const auto after = tensor.staged(feedback, 2);
  EXPECT_FALSE(codedNonFinite(Codec::int8, DType::float32, after.data(), 1000));
}

TEST(ErrorFeedback, MemoryIsBoundedAndStaleTensorsMakeRoom) {
  constexpr std::uint64_t kNumel = 1'000'000;
  const Tensor tensor(kNumel, DType::float32, Bytes(kNumel * 4));
  const auto each = payloadBytes(Codec::int8, 4, kNumel);
  ErrorFeedback feedback;
  // As many tensors as addresses; the values are those of one.
  const auto count = [&](std::uint64_t address, std::uint64_t seq) {
    auto source = tensor.source(seq);
    source.tensor = reinterpret_cast<const std::byte*>(address);
    feedback.counted(source);
  };
  const std::uint64_t fit = ErrorFeedback::kMostBytes / each;
  std::uint64_t seq = 0;
  for (std::uint64_t i = 0; i < fit + 50; ++i) count(i + 1, ++seq);
  EXPECT_EQ(feedback.bytes(), fit * each);
  for (std::uint64_t i = 0; i < fit; ++i) count(i + 1, ++seq);
  EXPECT_EQ(feedback.bytes(), fit * each) << "those that fit stay";
  seq += ErrorFeedback::kStaleRounds + fit;
  count(fit + 100, seq);
  EXPECT_EQ(feedback.bytes(), each) << "nobody came back for the others";
}

}  // namespace
}  // namespace papilio::engine
