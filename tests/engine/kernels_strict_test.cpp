// reduceStrict for every dtype and operation, against one-element-at-a-time references.
#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <cstring>
#include <random>

#include "engine/kernels.hpp"
#include "engine/oracle.hpp"

namespace papilio::engine {
namespace {

using testing::Bytes;
constexpr std::uint64_t kNumel = 1001;

template <class T>
T element(const Bytes& data, std::uint64_t index) {
  T out;
  std::memcpy(&out, data.data() + index * sizeof(T), sizeof(T));
  return out;
}

Bytes randomBytes(std::uint64_t size, unsigned seed) {
  std::mt19937_64 random(seed);
  Bytes out(size);
  for (auto& byte : out) byte = static_cast<std::byte>(random());
  return out;
}

std::vector<Bytes> inputsFor(DType dtype) {
  std::vector<Bytes> out;
  for (unsigned k = 0; k < 4; ++k) {
    if (isFloating(dtype)) {
      out.push_back(testing::randomFloating(dtype, kNumel, k, true));
    } else if (isComplex(dtype)) {
      const auto part = dtype == DType::complex64 ? DType::float32 : DType::float64;
      out.push_back(testing::randomFloating(part, kNumel * 2, k));
    } else {
      out.push_back(randomBytes(kNumel * elementSize(dtype), k));
    }
  }
  return out;
}

// Modulo 2^64, then cut: what wrapping arithmetic of any width gives.
std::uint64_t integerOp(ReduceOp op, const std::vector<std::int64_t>& values) {
  auto acc = static_cast<std::uint64_t>(values[0]);
  std::int64_t extreme = values[0];
  for (std::size_t k = 1; k < values.size(); ++k) {
    const auto next = static_cast<std::uint64_t>(values[k]);
    switch (op) {
      case ReduceOp::product: acc *= next; break;
      case ReduceOp::band: acc &= next; break;
      case ReduceOp::bor: acc |= next; break;
      case ReduceOp::bxor: acc ^= next; break;
      case ReduceOp::min: extreme = std::min(extreme, values[k]); break;
      case ReduceOp::max: extreme = std::max(extreme, values[k]); break;
      default: acc += next;
    }
  }
  const bool order = op == ReduceOp::min || op == ReduceOp::max;
  return order ? static_cast<std::uint64_t>(extreme) : acc;
}

template <class T>
void checkIntegers(ReduceOp op, const std::vector<Bytes>& inputs, const Bytes& out, double premul) {
  for (std::uint64_t i = 0; i < kNumel; ++i) {
    std::vector<std::int64_t> values;
    for (const auto& input : inputs) values.push_back(element<T>(input, i));
    const auto expected = static_cast<T>(integerOp(op, values));
    if (premul != 1.0) continue;
    ASSERT_EQ(element<T>(out, i), expected) << name(op) << " " << i;
  }
}

void checkBooleans(ReduceOp op, const std::vector<Bytes>& inputs, const Bytes& out) {
  for (std::uint64_t i = 0; i < kNumel; ++i) {
    int truths = 0;
    for (const auto& input : inputs) truths += input[i] != std::byte{0} ? 1 : 0;
    const int all = static_cast<int>(inputs.size());
    bool expected = truths > 0;
    if (op == ReduceOp::product || op == ReduceOp::min || op == ReduceOp::band) {
      expected = truths == all;
    }
    if (op == ReduceOp::bxor) expected = truths % 2 == 1;
    ASSERT_EQ(out[i], std::byte{expected}) << name(op) << " " << i;
  }
}

void checkFloating(DType dtype, ReduceOp op, const std::vector<Bytes>& inputs, const Bytes& out,
                   double premul) {
  Bytes expected(out.size());
  if (op == ReduceOp::sum || op == ReduceOp::avg || op == ReduceOp::premul_sum) {
    std::vector<const std::byte*> plain;
    for (const auto& input : inputs) plain.push_back(input.data());
    const double factor = op == ReduceOp::avg          ? 1.0 / static_cast<double>(inputs.size())
                          : op == ReduceOp::premul_sum ? premul
                                                       : 1.0;
    expected =
        testing::weightedSum(dtype, plain, std::vector<float>(inputs.size(), 1.0F), kNumel, factor);
  } else {
    for (std::uint64_t i = 0; i < kNumel; ++i) {
      double acc = testing::loadFloating(dtype, inputs[0].data(), i);
      for (std::size_t k = 1; k < inputs.size(); ++k) {
        const double next = testing::loadFloating(dtype, inputs[k].data(), i);
        const bool nan = std::isnan(acc) || std::isnan(next);
        if (op == ReduceOp::product) {
          acc *= next;
          if (dtype != DType::float64) acc = static_cast<float>(acc);
        } else if (nan) {
          acc = std::nan("");
        } else {
          acc = op == ReduceOp::min ? std::fmin(acc, next) : std::fmax(acc, next);
        }
      }
      testing::storeFloating(dtype, expected.data(), i, acc);
      if (acc == 0.0) {  // which zero wins a tie is not promised
        testing::storeFloating(dtype, expected.data(), i,
                               testing::loadFloating(dtype, out.data(), i) == 0.0
                                   ? testing::loadFloating(dtype, out.data(), i)
                                   : acc);
      }
    }
  }
  ASSERT_EQ(testing::firstDifference(dtype, out.data(), expected.data(), kNumel), kNumel)
      << name(dtype) << " " << name(op);
}

template <class T>
void checkComplex(ReduceOp op, const std::vector<Bytes>& inputs, const Bytes& out, double premul) {
  for (std::uint64_t i = 0; i < kNumel; ++i) {
    std::complex<double> acc = element<std::complex<T>>(inputs[0], i);
    for (std::size_t k = 1; k < inputs.size(); ++k) {
      const std::complex<double> next = element<std::complex<T>>(inputs[k], i);
      acc = op == ReduceOp::product ? acc * next : acc + next;
    }
    if (op == ReduceOp::avg) acc /= static_cast<double>(inputs.size());
    if (op == ReduceOp::premul_sum) acc *= premul;
    const std::complex<double> got = element<std::complex<T>>(out, i);
    const double tolerance = sizeof(T) == 4 ? 1e-4 : 1e-12;
    ASSERT_LE(std::abs(got - acc), tolerance * (1.0 + std::abs(acc))) << name(op) << " " << i;
  }
}

TEST(ReduceStrict, EveryTypeAndOperation) {
  int tried = 0;
  for (std::uint8_t d = 1; d <= kDTypeLast; ++d) {
    for (std::uint8_t o = 1; o <= kReduceOpLast; ++o) {
      const auto dtype = static_cast<DType>(d);
      const auto op = static_cast<ReduceOp>(o);
      if (!supports(dtype, op)) continue;
      ++tried;
      const double premul = op == ReduceOp::premul_sum ? 0.7 : 1.0;
      const auto inputs = inputsFor(dtype);
      std::vector<const std::byte*> pointers;
      for (const auto& input : inputs) pointers.push_back(input.data());
      Bytes out(kNumel * elementSize(dtype));
      reduceStrict(dtype, op, pointers, kNumel, premul, out.data());
      switch (dtype) {
        case DType::int8: checkIntegers<std::int8_t>(op, inputs, out, premul); break;
        case DType::uint8: checkIntegers<std::uint8_t>(op, inputs, out, premul); break;
        case DType::int16: checkIntegers<std::int16_t>(op, inputs, out, premul); break;
        case DType::int32: checkIntegers<std::int32_t>(op, inputs, out, premul); break;
        case DType::int64: checkIntegers<std::int64_t>(op, inputs, out, premul); break;
        case DType::boolean: checkBooleans(op, inputs, out); break;
        case DType::complex64: checkComplex<float>(op, inputs, out, premul); break;
        case DType::complex128: checkComplex<double>(op, inputs, out, premul); break;
        default: checkFloating(dtype, op, inputs, out, premul);
      }
      if (HasFatalFailure()) return;
      // In place over the first input, as the collectives use it.
      auto first = inputs[0];
      pointers[0] = first.data();
      reduceStrict(dtype, op, pointers, kNumel, premul, first.data());
      if (!isFloating(dtype)) {
        EXPECT_EQ(first, out) << name(dtype) << " " << name(op);
      }
    }
  }
  EXPECT_GT(tried, 60);
}

TEST(ReduceStrict, OneInputAndNone) {
  std::vector<float> in{1, 2, 3};
  std::vector<float> out(3, 9.0F);
  const auto* data = reinterpret_cast<const std::byte*>(in.data());
  auto* to = reinterpret_cast<std::byte*>(out.data());
  reduceStrict(DType::float32, ReduceOp::max, {}, 3, 1.0, to);
  EXPECT_EQ(out, std::vector<float>(3, 9.0F));
  reduceStrict(DType::float32, ReduceOp::max, {&data, 1}, 3, 1.0, to);
  EXPECT_EQ(out, in);
}

}  // namespace
}  // namespace papilio::engine
