// Kernels against the oracle, bit for bit: on a machine with AVX this also compares the vector
// clones with plain scalar code.
#include "engine/kernels.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <complex>
#include <cstring>
#include <random>

#include "engine/half.hpp"
#include "engine/oracle.hpp"

namespace papilio::engine {
namespace {

using testing::Bytes;

constexpr DType kFloating[] = {DType::float16, DType::bfloat16, DType::float32, DType::float64};
// Around the tile of 2048 elements, with tails that no vector width divides.
constexpr std::uint64_t kSizes[] = {0, 1, 3, 17, 2047, 2048, 2049, 5003};

TEST(Half, EveryBitPatternConvertsLikeTheCompilersOwnType) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Float16 half{static_cast<std::uint16_t>(bits)};
    const auto reference = static_cast<float>(std::bit_cast<_Float16>(half.bits));
    if (std::isnan(reference)) {
      EXPECT_TRUE(std::isnan(toFloat(half))) << bits;
      continue;
    }
    ASSERT_EQ(std::bit_cast<std::uint32_t>(toFloat(half)), std::bit_cast<std::uint32_t>(reference))
        << bits;
    Float16 back;
    fromFloat(reference, back);
    ASSERT_EQ(back.bits, half.bits);
  }
}

TEST(Half, RoundsToNearestEven) {
  std::mt19937 random(1);
  for (int i = 0; i < 2'000'000; ++i) {
    // All exponents, and around those of halves in particular.
    auto bits = static_cast<std::uint32_t>(random());
    if (i % 2 == 0) bits = (bits & 0x807fffffu) | ((0x60u + random() % 0x30u) << 23);
    if (i % 8 == 0) bits &= ~0xfffu;  // ties
    const float value = std::bit_cast<float>(bits);
    Bytes expected(2);
    testing::storeFloating(DType::float16, expected.data(), 0, static_cast<double>(value));
    Float16 half;
    fromFloat(value, half);
    ASSERT_EQ(testing::firstDifference(DType::float16, expected.data(),
                                       reinterpret_cast<const std::byte*>(&half), 1),
              1u)
        << value;
    testing::storeFloating(DType::bfloat16, expected.data(), 0, static_cast<double>(value));
    BFloat16 brain;
    fromFloat(value, brain);
    ASSERT_EQ(testing::firstDifference(DType::bfloat16, expected.data(),
                                       reinterpret_cast<const std::byte*>(&brain), 1),
              1u)
        << value;
  }
}

TEST(ReduceWeighted, AgreesWithTheOracle) {
  for (const auto dtype : kFloating) {
    for (const auto numel : kSizes) {
      for (const unsigned count : {1u, 2u, 5u}) {
        for (const bool weighted : {false, true}) {
          for (const double factor : {1.0, 1.0 / 3.0, 2.5}) {
            std::vector<Bytes> data;
            std::vector<ReduceInput> inputs;
            std::vector<const std::byte*> plain;
            std::vector<float> weights;
            for (unsigned k = 0; k < count; ++k) {
              data.push_back(testing::randomFloating(dtype, numel, k * 7 + count, true));
              weights.push_back(weighted ? 0.25F + static_cast<float>(k) / 3.0F : 1.0F);
            }
            for (unsigned k = 0; k < count; ++k) {
              inputs.push_back({data[k].data(), weights[k]});
              plain.push_back(data[k].data());
            }
            const auto expected = testing::weightedSum(dtype, plain, weights, numel, factor);
            Bytes out(expected.size());
            reduceWeighted(dtype, inputs, numel, factor, out.data());
            if (dtype == DType::float64 && weighted) continue;  // compared within an ulp below
            ASSERT_EQ(testing::firstDifference(dtype, out.data(), expected.data(), numel), numel)
                << name(dtype) << " inputs " << count << " factor " << factor;
            // In place over the first input.
            reduceWeighted(dtype, inputs, numel, factor, data[0].data());
            ASSERT_EQ(testing::firstDifference(dtype, data[0].data(), expected.data(), numel),
                      numel);
          }
        }
      }
    }
  }
}

TEST(ReduceWeighted, WeightsOfFloat64) {
  const auto a = testing::randomFloating(DType::float64, 1000, 1);
  const auto b = testing::randomFloating(DType::float64, 1000, 2);
  const ReduceInput inputs[] = {{a.data(), 0.25F}, {b.data(), 3.0F}};
  Bytes out(8000);
  reduceWeighted(DType::float64, inputs, 1000, 0.5, out.data());
  for (std::uint64_t i = 0; i < 1000; ++i) {
    const double x = testing::loadFloating(DType::float64, a.data(), i);
    const double y = testing::loadFloating(DType::float64, b.data(), i);
    ASSERT_EQ(testing::loadFloating(DType::float64, out.data(), i), (x * 0.25 + y * 3.0) * 0.5);
  }
}

TEST(Scale, ByOneTouchesNothing) {
  for (const auto dtype : kFloating) {
    auto data = testing::randomFloating(dtype, 3000, 5, true);
    const auto before = data;
    scale(dtype, data.data(), 3000, 1.0);
    EXPECT_EQ(data, before) << "not even the bits of a NaN";
    scale(dtype, data.data(), 3000, 4.0);
    const auto expected = testing::weightedSum(dtype, {before.data()}, {1.0F}, 3000, 4.0);
    EXPECT_EQ(testing::firstDifference(dtype, data.data(), expected.data(), 3000), 3000u);
  }
}

TEST(HasNonFinite, FindsOneAnywhere) {
  for (const auto dtype : kFloating) {
    for (const std::uint64_t numel : {1u, 100u, 5003u}) {
      auto data = testing::randomFloating(dtype, numel, 9);
      // The largest finite number and a denormal are no infinity.
      testing::storeFloating(dtype, data.data(), 0, dtype == DType::float16 ? 65504.0 : 3e38);
      EXPECT_FALSE(hasNonFinite(dtype, data.data(), numel));
      for (const std::uint64_t at : {std::uint64_t{0}, numel / 2, numel - 1}) {
        for (const double bad : {HUGE_VAL, -HUGE_VAL, std::nan("")}) {
          auto damaged = data;
          testing::storeFloating(dtype, damaged.data(), at, bad);
          EXPECT_TRUE(hasNonFinite(dtype, damaged.data(), numel)) << name(dtype) << " " << at;
        }
      }
    }
    EXPECT_FALSE(hasNonFinite(dtype, nullptr, 0));
  }
}

}  // namespace
}  // namespace papilio::engine
