// The codecs against the oracle, bit for bit, and what engine/codec.hpp promises about them.
#include "engine/codec.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "engine/codec_oracle.hpp"

namespace papilio::engine {
namespace {

using testing::Bytes;
using testing::kCodecs;

constexpr DType kFloating[] = {DType::float16, DType::bfloat16, DType::float32, DType::float64};
// Around a block of 256 and the tile of 2048, with tails that no vector width divides.
constexpr std::uint64_t kSizes[] = {0, 1, 255, 256, 257, 1000, 2047, 2048, 2049, 5003};

Bytes encoded(Codec codec, DType dtype, const Bytes& in, std::uint64_t numel) {
  // Not zero: bytes that are not written show.
  Bytes out(payloadBytes(codec, elementSize(dtype), numel), std::byte{0xee});
  encode(codec, dtype, in.data(), numel, out.data());
  return out;
}
Bytes decoded(Codec codec, DType dtype, const Bytes& in, std::uint64_t numel) {
  Bytes out(numel * elementSize(dtype));
  decode(codec, dtype, in.data(), numel, out.data());
  return out;
}

// Any NaN equals any NaN, also inside of encoded bytes.
void expectSame(Codec codec, DType dtype, const Bytes& a, const Bytes& b, std::uint64_t numel) {
  ASSERT_EQ(a.size(), b.size());
  const Codec form = codecFor(codec, elementSize(dtype), numel);
  const auto head = form == Codec::fp16 || form == Codec::int8 ? scaleBytes(numel) : 0;
  ASSERT_TRUE(std::equal(a.data(), a.data() + head, b.data())) << name(codec) << " scales";
  if (form == Codec::int8) {
    ASSERT_EQ(a, b) << "codes of " << name(dtype) << ", " << numel << " elements";
    return;
  }
  const auto type = form == Codec::raw    ? dtype
                    : form == Codec::bf16 ? DType::bfloat16
                                          : DType::float16;
  ASSERT_EQ(testing::firstDifference(type, a.data() + head, b.data() + head, numel), numel)
      << name(codec) << " of " << name(dtype) << ", " << numel << " elements";
}

template <class Check>
void forEverything(Check check) {
  for (const auto codec : kCodecs) {
    for (const auto dtype : kFloating) {
      for (const auto numel : kSizes) {
        check(codec, dtype, numel, testing::randomFloating(dtype, numel, 3, false));
        check(codec, dtype, numel, testing::randomFloating(dtype, numel, 4, true));
        check(codec, dtype, numel, testing::randomMagnitudes(dtype, numel, 5));
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

TEST(Codec, EncodesAndDecodesLikeTheOracle) {
  forEverything([](Codec codec, DType dtype, std::uint64_t numel, const Bytes& in) {
    const auto out = encoded(codec, dtype, in, numel);
    expectSame(codec, dtype, out, testing::encoded(codec, dtype, in.data(), numel), numel);
    const auto back = decoded(codec, dtype, out, numel);
    const auto expected = testing::decoded(codec, dtype, out, numel);
    ASSERT_EQ(testing::firstDifference(dtype, back.data(), expected.data(), numel), numel)
        << name(codec) << " of " << name(dtype) << ", " << numel << " elements";
  });
}

TEST(Codec, ErrsByHalfAStepAndKeepsWhatIsNotFinite) {
  forEverything([](Codec codec, DType dtype, std::uint64_t numel, const Bytes& in) {
    const Codec form = codecFor(codec, elementSize(dtype), numel);
    const auto back = decoded(codec, dtype, encoded(codec, dtype, in, numel), numel);
    for (std::uint64_t i = 0; i < numel; ++i) {
      const double value = testing::loadFloating(dtype, in.data(), i);
      const double result = testing::loadFloating(dtype, back.data(), i);
      if (!std::isfinite(value)) {
        ASSERT_FALSE(std::isfinite(result)) << name(codec) << " " << value;
        continue;
      }
      double largest = 0;
      const auto block = i / kCodecBlock * kCodecBlock;
      for (std::uint64_t k = block; k < std::min(block + kCodecBlock, numel); ++k) {
        const double other = std::abs(testing::loadFloating(dtype, in.data(), k));
        if (std::isfinite(other)) largest = std::max(largest, other);
      }
      // The decoded value is rounded to the tensor's type once more.
      const int digits = dtype == DType::bfloat16 ? 8 : dtype == DType::float16 ? 11 : 60;
      const double tiny = dtype == DType::float16 ? 0x1p-25 : 0.0;
      const double rounding = std::max(std::ldexp(std::abs(value) + largest / 254, -digits), tiny);
      const double bound =
          testing::halfStep(form, value, largest) + (form == Codec::raw ? 0 : rounding);
      ASSERT_LE(std::abs(result - value), bound)
          << name(codec) << " of " << name(dtype) << ": " << value << " became " << result;
    }
  });
}

// A rank passes on a result out of its tensor: the bytes may differ, what they decode to may not.
TEST(Codec, DecodedTensorsTravelWithoutLoss) {
  unsigned seed = 0;
  for (int round = 0; round < 300; ++round) {
    for (const auto codec : kCodecs) {
      for (const auto dtype : kFloating) {
        const std::uint64_t numel = 256 + seed % 700;
        auto in = round % 2 == 0 ? testing::randomMagnitudes(dtype, numel, seed)
                                 : testing::randomFloating(dtype, numel, seed, round % 4 == 1);
        ++seed;
        const auto once = decoded(codec, dtype, encoded(codec, dtype, in, numel), numel);
        const auto twice = decoded(codec, dtype, encoded(codec, dtype, once, numel), numel);
        const auto at = testing::firstDifference(dtype, once.data(), twice.data(), numel);
        ASSERT_EQ(at, numel) << name(codec) << " of " << name(dtype) << ": "
                             << testing::loadFloating(dtype, once.data(), at) << " became "
                             << testing::loadFloating(dtype, twice.data(), at);
      }
    }
  }
}

// The same where the largest element rounds up to the next power of two: were the scale taken from
// its exponent as it is, the second time would find the double of it, and lose the tiny elements.
TEST(Codec, AScaleIsFoundAgainAfterItsLargestElementRoundedUp) {
  constexpr std::uint64_t kNumel = 256;
  Bytes in(kNumel * sizeof(float));
  for (std::uint64_t i = 0; i < kNumel; ++i) {
    testing::storeFloating(DType::float32, in.data(), i, std::ldexp(static_cast<double>(i), -38));
  }
  testing::storeFloating(DType::float32, in.data(), 5, std::nextafter(2.0F, 0.0F));
  const auto once = decoded(Codec::fp16, DType::float32,
                            encoded(Codec::fp16, DType::float32, in, kNumel), kNumel);
  ASSERT_EQ(testing::loadFloating(DType::float32, once.data(), 5), 2.0);
  EXPECT_EQ(decoded(Codec::fp16, DType::float32, encoded(Codec::fp16, DType::float32, once, kNumel),
                    kNumel),
            once);
}

TEST(Codec, OneBadElementSpoilsNoOther) {
  constexpr std::uint64_t kNumel = 600;
  for (const auto codec : kCodecs) {
    const auto clean = testing::randomFloating(DType::float32, kNumel, 11);
    const auto fine =
        decoded(codec, DType::float32, encoded(codec, DType::float32, clean, kNumel), kNumel);
    for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
      auto in = clean;
      testing::storeFloating(DType::float32, in.data(), 300, bad);
      auto out = encoded(codec, DType::float32, in, kNumel);
      EXPECT_TRUE(codedNonFinite(codec, DType::float32, out.data(), kNumel)) << name(codec);
      const auto back = decoded(codec, DType::float32, out, kNumel);
      for (std::uint64_t i = 0; i < kNumel; ++i) {
        const double value = testing::loadFloating(DType::float32, back.data(), i);
        if (i == 300) {
          ASSERT_FALSE(std::isfinite(value));
          if (codec != Codec::int8) {
            ASSERT_EQ(std::isnan(value), std::isnan(bad));
            ASSERT_EQ(std::isnan(bad) || value == bad, true);
          }
        } else {
          ASSERT_EQ(value, testing::loadFloating(DType::float32, fine.data(), i)) << i;
        }
      }
    }
    const auto whole = encoded(codec, DType::float32, clean, kNumel);
    EXPECT_FALSE(codedNonFinite(codec, DType::float32, whole.data(), kNumel)) << name(codec);
  }
}

TEST(Codec, ZerosStayZero) {
  for (const auto codec : kCodecs) {
    for (const auto dtype : kFloating) {
      for (const double zero : {0.0, -0.0}) {
        Bytes in(1000 * elementSize(dtype));
        for (std::uint64_t i = 0; i < 1000; ++i) {
          testing::storeFloating(dtype, in.data(), i, zero);
        }
        const auto back = decoded(codec, dtype, encoded(codec, dtype, in, 1000), 1000);
        for (std::uint64_t i = 0; i < 1000; ++i) {
          const double value = testing::loadFloating(dtype, back.data(), i);
          ASSERT_EQ(value, 0.0);
          if (codec != Codec::int8) {
            ASSERT_EQ(std::signbit(value), std::signbit(zero));
          }
        }
      }
    }
  }
}

// What the tests with whole ranks rely on.
TEST(Codec, SmallIntegersAreExact) {
  Bytes in(4 * 1024);
  for (std::uint64_t i = 0; i < 1024; ++i) {
    const auto value = static_cast<double>(static_cast<int>(i * 37 % 255) - 127);
    testing::storeFloating(DType::float32, in.data(), i, i % 256 == 7 ? 127.0 : value);
  }
  for (const auto codec : kCodecs) {
    EXPECT_EQ(decoded(codec, DType::float32, encoded(codec, DType::float32, in, 1024), 1024), in)
        << name(codec);
  }
}

TEST(Codec, ReducesLikeTheOracle) {
  std::mt19937 random(1);
  constexpr float kWeights[] = {1.0F, 1.0F, 0.25F, 3.0F, 1.0F / 3.0F, 0.0F};
  constexpr double kFactors[][2] = {{1, 1}, {1, 3}, {2.5, 1}, {4, 3}};
  forEverything([&](Codec codec, DType dtype, std::uint64_t numel, const Bytes& first) {
    for (const unsigned count : {1u, 2u, 5u}) {
      const Codec form = codecFor(codec, elementSize(dtype), numel);
      // What a reducer adds: float32, but in the tensor's own type where nothing is encoded.
      const DType adds = form == Codec::raw ? dtype : DType::float32;
      std::vector<Bytes> data, floats;
      std::vector<CodedInput> inputs;
      std::vector<float> weights;
      for (unsigned k = 0; k < count; ++k) {
        const auto values =
            k == 0 ? first : testing::randomFloating(dtype, numel, static_cast<unsigned>(random()));
        const bool own = k == count / 2;
        data.push_back(own ? values : encoded(codec, dtype, values, numel));
        floats.push_back(
            testing::decoded(own ? Codec::raw : codec, dtype, data.back().data(), numel, adds));
        weights.push_back(dtype == DType::float64 ? 1.0F : kWeights[random() % 6]);
      }
      std::vector<const std::byte*> from;
      for (unsigned k = 0; k < count; ++k) {
        inputs.push_back({data[k].data(), weights[k], k != count / 2});
        from.push_back(floats[k].data());
      }
      const auto& factor = kFactors[random() % 4];
      const auto sum = testing::weightedSum(adds, from, weights, numel, factor[0], factor[1]);
      Bytes rounded(numel * elementSize(dtype));
      for (std::uint64_t i = 0; i < numel; ++i) {
        testing::storeFloating(dtype, rounded.data(), i,
                               testing::loadFloating(adds, sum.data(), i));
      }
      Bytes out(payloadBytes(codec, elementSize(dtype), numel), std::byte{0xee});
      bool bad = false;
      reduceCoded(codec, dtype, inputs, numel, {factor[0], factor[1]}, out.data(), &bad);
      const auto expected = testing::encoded(codec, dtype, rounded.data(), numel);
      expectSame(codec, dtype, out, expected, numel);
      if (::testing::Test::HasFatalFailure()) return;
      ASSERT_EQ(bad, hasNonFinite(dtype, rounded.data(), numel)) << name(codec);
    }
  });
}

// Nothing is trusted: scales of any kind, codes of any kind.
TEST(Codec, AnyBytesDecodeAndWhatIsNotFiniteIsSeen) {
  std::mt19937 random(2);
  for (int round = 0; round < 300; ++round) {
    for (const auto codec : kCodecs) {
      for (const auto dtype : kFloating) {
        const std::uint64_t numel = 256 + random() % 600;
        Bytes in(payloadBytes(codec, elementSize(dtype), numel));
        for (auto& byte : in) byte = static_cast<std::byte>(random());
        const auto expected = testing::decoded(codec, dtype, in, numel);
        const auto back = decoded(codec, dtype, in, numel);
        ASSERT_EQ(testing::firstDifference(dtype, back.data(), expected.data(), numel), numel);
        const auto floats = testing::decoded(codec, dtype, in.data(), numel, DType::float64);
        bool bad = false;
        for (std::uint64_t i = 0; i < numel; ++i) {
          const double value = testing::loadFloating(DType::float64, floats.data(), i);
          bad = bad || !std::isfinite(dtype == DType::float64 ? value : static_cast<float>(value));
        }
        ASSERT_EQ(codedNonFinite(codec, dtype, in.data(), numel), bad) << name(codec);
      }
    }
  }
}

}  // namespace
}  // namespace papilio::engine
