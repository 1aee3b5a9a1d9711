// The coded bodies and the norm, compiled for the host, against the engine's kernels: the same
// bits.
#include "cuda/coded_twins.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "cuda/coded_cases.hpp"
#include "cuda/placed.hpp"

namespace papilio::cuda::testing {
namespace {

using engine::testing::firstDifference;

// From one block on: below it everything is raw.
std::uint64_t randomNumel(std::mt19937& random) {
  constexpr std::uint64_t kEdges[] = {256, 257, 511, 512, 1000, 1024, 2048};
  return random() % 3 == 0 ? kEdges[random() % std::size(kEdges)] : 256 + random() % 3000;
}

void checkAverage(const CodedCase& made, bool wide) {
  std::vector<Placed> inputs;
  inputs.reserve(made.inputs.size());
  Members members{};
  for (unsigned k = 0; k < made.inputs.size(); ++k) {
    const bool shifted = k == made.own && !wide;
    inputs.emplace_back(made.inputs[k], shifted ? elementSize(made.form.dtype) : 0);
    members.data[k] = inputs.back().data();
    members.weight[k] = made.weights[k];
  }
  members.count = static_cast<unsigned>(made.inputs.size());
  const auto [expected, bad] = made.expected();
  Placed out(Bytes(expected.size(), std::byte{0xaa}));
  const Scale scale(made.times, made.over);
  ASSERT_EQ(twinAverageCoded(made.form.codec, made.form.dtype, members, made.own, scale, made.numel,
                             wide, out.data()),
            bad);
  const Bytes got(out.data(), out.data() + expected.size());
  ASSERT_EQ(codedDifference(made.form, got, expected, made.numel), expected.size())
      << name(made.form.codec) << " of " << name(made.form.dtype) << ", " << made.numel
      << " elements, " << members.count << " members, own " << made.own;
}

TEST(CodedTwins, AverageIsTheEngines) {
  std::mt19937 random(21);
  for (const auto& form : kForms) {
    for (unsigned members = 1; members <= 9; ++members) {
      for (int round = 0; round < 12; ++round) {
        checkAverage(randomCoded(form, randomNumel(random), members, random), round % 2 == 0);
        if (HasFatalFailure()) return;
      }
    }
    checkAverage(randomCoded(form, 300, 256, random), true);
  }
}

TEST(CodedTwins, EncodingAndDecodingAreTheEngines) {
  std::mt19937 random(22);
  for (const auto& form : kForms) {
    for (int round = 0; round < 120; ++round) {
      const auto numel = randomNumel(random);
      const auto seed = static_cast<unsigned>(random());
      const auto tensor = round % 3 == 0
                              ? engine::testing::randomMagnitudes(form.dtype, numel, seed)
                              : engine::testing::randomFloating(form.dtype, numel, seed, true);
      const std::size_t shift = round % 2 == 0 ? 0 : elementSize(form.dtype);
      Placed from(tensor, shift);
      const auto expected = encodedByTheEngine(form, tensor, numel);
      Placed to(Bytes(expected.size(), std::byte{0xaa}));
      twinEncode(form.codec, form.dtype, {from.data(), to.data(), numel});
      const Bytes got(to.data(), to.data() + expected.size());
      ASSERT_EQ(codedDifference(form, got, expected, numel), expected.size())
          << name(form.codec) << " of " << name(form.dtype) << ", " << numel << " elements";
      auto plain = tensor;
      engine::decode(form.codec, form.dtype, expected.data(), numel, plain.data());
      Placed back(Bytes(tensor.size() + 16, std::byte{0xaa}), shift);
      twinDecode(form.codec, form.dtype, {to.data(), back.data(), numel});
      ASSERT_EQ(firstDifference(form.dtype, back.data(), plain.data(), numel), numel);
      ASSERT_EQ(back.data()[tensor.size()], std::byte{0xaa}) << "behind the end";
    }
  }
}

TEST(CodedTwins, SumOfSquaresIsTheEngines) {
  std::mt19937 random(23);
  for (const auto dtype : kFloating) {
    for (int round = 0; round < 60; ++round) {
      const auto numel = round < 4 ? round : random() % 700'000;
      const auto data = engine::testing::randomFloating(
          dtype, numel, static_cast<unsigned>(random()), round % 8 == 1);
      const auto twin = twinSumSquares(dtype, data.data(), numel);
      const double host = engine::sumSquares(dtype, data.data(), numel);
      ASSERT_EQ(twin.bad, engine::hasNonFinite(dtype, data.data(), numel));
      if (std::isnan(host)) {
        ASSERT_TRUE(std::isnan(twin.sum));
        continue;
      }
      ASSERT_EQ(std::bit_cast<std::uint64_t>(twin.sum), std::bit_cast<std::uint64_t>(host));
      // And it is the sum of squares: added one after the other, in higher precision.
      long double sum = 0;
      for (std::uint64_t i = 0; i < numel; ++i) {
        const auto value =
            static_cast<long double>(engine::testing::loadFloating(dtype, data.data(), i));
        sum += value * value;
      }
      if (!std::isfinite(host)) continue;
      ASSERT_LE(std::abs(static_cast<double>(sum) - host), 1e-12 * host);
    }
  }
}

}  // namespace
}  // namespace papilio::cuda::testing
