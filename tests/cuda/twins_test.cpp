// The kernel bodies, compiled for the host, against the engine's kernels: the same bits, where any
// NaN equals any NaN (its payload depends on the processor, and on the order of operands).
#include "cuda/twins.hpp"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "cuda/cases.hpp"
#include "cuda/placed.hpp"
#include "engine/half.hpp"

namespace papilio::cuda::testing {
namespace {

using engine::testing::firstDifference;

void checkAverage(const Case& made, bool wide, unsigned threads) {
  const auto expected = made.expected();
  const std::size_t shift = wide ? 0 : elementSize(made.dtype);
  std::vector<Placed> inputs;
  inputs.reserve(made.inputs.size());
  Members members{};
  for (std::size_t k = 0; k < made.inputs.size(); ++k) {
    inputs.emplace_back(made.inputs[k], shift);
    members.data[k] = inputs.back().data();
    members.weight[k] = made.weights[k];
  }
  members.count = static_cast<unsigned>(made.inputs.size());
  const Scale scale(made.times, made.over);
  Placed out(Bytes(expected.size()), shift);
  twinAverage(made.dtype, members, scale, made.numel, wide, out.data(), threads);
  ASSERT_EQ(firstDifference(made.dtype, out.data(), expected.data(), made.numel), made.numel)
      << name(made.dtype) << ", " << members.count << " members, factor " << made.times << " / "
      << made.over << (wide ? ", wide" : ", narrow");
  // In place over the last input.
  auto& last = inputs.back();
  twinAverage(made.dtype, members, scale, made.numel, wide, last.data(), threads);
  ASSERT_EQ(firstDifference(made.dtype, last.data(), expected.data(), made.numel), made.numel);
}

TEST(Twins, AverageIsTheEngines) {
  std::mt19937 random(7);
  for (const auto dtype : kFloating) {
    for (unsigned members = 1; members <= 9; ++members) {
      for (int round = 0; round < 40; ++round) {
        const auto numel = round == 0 ? 0 : random() % 700 + 1;
        const auto made = randomCase(dtype, numel, members, random);
        checkAverage(made, round % 2 == 0, round % 3 == 0 ? 1 : random() % 64 + 1);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Twins, AverageOfAllRanks) {
  std::mt19937 random(8);
  for (const auto dtype : kFloating) checkAverage(randomCase(dtype, 100, 256, random), true, 5);
}

TEST(Twins, ASumOfNegativeZerosStaysNegative) {
  Bytes zero(4);
  const float value = -0.0F;
  std::memcpy(zero.data(), &value, 4);
  Case made{DType::float32, 1, {zero, zero}, {1.0F, 3.0F}, 1.0, 2.0};
  checkAverage(made, true, 1);
  float result;
  std::memcpy(&result, made.expected().data(), 4);
  EXPECT_TRUE(std::signbit(result));
}

TEST(Twins, EveryHalfLoadsLikeTheEngines) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto pattern = static_cast<std::uint16_t>(bits);
    const float half = engine::toFloat(engine::Float16{pattern});
    const float brain = engine::toFloat(engine::BFloat16{pattern});
    // Including the payload of a NaN: no arithmetic is involved.
    ASSERT_EQ(std::bit_cast<std::uint32_t>(Element<Float16>::load({pattern})),
              std::bit_cast<std::uint32_t>(half));
    ASSERT_EQ(std::bit_cast<std::uint32_t>(Element<BFloat16>::load({pattern})),
              std::bit_cast<std::uint32_t>(brain));
  }
}

TEST(Twins, FloatsRoundToHalvesLikeTheEngines) {
  // Every exponent and sign, every bit that decides the rounding, and the bits around it.
  for (std::uint32_t high = 0; high < 0x10000; ++high) {
    for (const std::uint32_t low : {0x0u, 0x1u, 0x7fffu, 0x8000u, 0x8001u, 0xf000u, 0xffffu}) {
      for (const std::uint32_t bits : {(high << 16) | low, (high << 16) | (low >> 3)}) {
        const auto value = std::bit_cast<float>(bits);
        engine::Float16 half;
        engine::BFloat16 brain;
        engine::fromFloat(value, half);
        engine::fromFloat(value, brain);
        ASSERT_EQ(Element<Float16>::store(value).bits, half.bits) << value;
        ASSERT_EQ(Element<BFloat16>::store(value).bits, brain.bits) << value;
      }
    }
  }
}

TEST(Twins, ScanFindsOneBadElementWhereverItIs) {
  for (const auto dtype : kFloating) {
    for (const bool wide : {true, false}) {
      for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
        const std::uint64_t numel = 37;
        const auto clean = engine::testing::randomFloating(dtype, numel, 3);
        const std::size_t shift = wide ? 0 : elementSize(dtype);
        Placed whole(clean, shift);
        ASSERT_FALSE(twinNonFinite(dtype, whole.data(), numel, wide, 4));
        for (std::uint64_t at = 0; at < numel; ++at) {
          auto dirty = clean;
          engine::testing::storeFloating(dtype, dirty.data(), at, bad);
          Placed placed(dirty, shift);
          ASSERT_TRUE(twinNonFinite(dtype, placed.data(), numel, wide, 4)) << at;
          ASSERT_FALSE(twinNonFinite(dtype, placed.data(), at, wide, 4)) << "behind the range";
        }
      }
    }
  }
}

TEST(Twins, ScanIsTheEngines) {
  std::mt19937 random(9);
  for (const auto dtype : kFloating) {
    for (int round = 0; round < 400; ++round) {
      const auto numel = random() % 20;  // short: a special value is now and then not there
      const auto data = engine::testing::randomFloating(dtype, numel, random(), true);
      Placed placed(data);
      ASSERT_EQ(twinNonFinite(dtype, placed.data(), numel, true, random() % 8 + 1),
                engine::hasNonFinite(dtype, data.data(), numel));
    }
  }
}

TEST(Twins, MoveIsTheEnginesScale) {
  std::mt19937 random(10);
  for (const auto dtype : kFloating) {
    for (int round = 0; round < 60; ++round) {
      const auto made = randomCase(dtype, random() % 300, 1, random);
      auto expected = made.inputs[0];
      // engine::scale takes one number, a Scale two steps: the same where the second is by 1.
      const double factor = made.times / made.over;
      engine::scale(dtype, expected.data(), made.numel, factor);
      const bool narrow = round % 2 != 0;
      Placed from(made.inputs[0], narrow ? elementSize(dtype) : 0);
      Placed to(Bytes(expected.size()));
      const Segment segment{from.data(), to.data(), made.numel};
      twinMove(dtype, segment, Scale(factor), random() % 16 + 1);
      ASSERT_EQ(firstDifference(dtype, to.data(), expected.data(), made.numel), made.numel);
      if (factor == 1.0 && !expected.empty()) {
        ASSERT_EQ(std::memcmp(to.data(), expected.data(), expected.size()), 0);
      }
    }
  }
}

}  // namespace
}  // namespace papilio::cuda::testing
