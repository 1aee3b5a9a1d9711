#include "engine/oracle.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>

namespace papilio::engine::testing {

namespace {

template <class T>
T at(const std::byte* data, std::uint64_t index) {
  T out;
  std::memcpy(&out, data + index * sizeof(T), sizeof(T));
  return out;
}
template <class T>
void put(std::byte* data, std::uint64_t index, T value) {
  std::memcpy(data + index * sizeof(T), &value, sizeof(T));
}

float bfloatValue(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

// The nearer of the two neighbours, the even one of equally near ones.
std::uint16_t nearestBfloat(float value) {
  if (std::isnan(value)) return 0x7fc0;
  const auto low = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
  if (bfloatValue(low) == value) return low;
  const auto high = static_cast<std::uint16_t>(low + 1);  // away from zero, maybe infinite
  const double below = std::abs(static_cast<double>(value) - bfloatValue(low));
  // An infinite neighbour counts as the next power of two, as IEEE 754 has it.
  const double next = std::isinf(bfloatValue(high)) ? std::copysign(std::ldexp(1.0, 128), value)
                                                    : bfloatValue(high);
  const double above = std::abs(next - static_cast<double>(value));
  if (below != above) return below < above ? low : high;
  return (low & 1) == 0 ? low : high;
}

}  // namespace

double loadFloating(DType dtype, const std::byte* data, std::uint64_t index) {
  switch (dtype) {
    case DType::float16: return static_cast<double>(at<_Float16>(data, index));
    case DType::bfloat16: return bfloatValue(at<std::uint16_t>(data, index));
    case DType::float32: return at<float>(data, index);
    case DType::float64: return at<double>(data, index);
    default: throw std::logic_error("no floating type");
  }
}

void storeFloating(DType dtype, std::byte* data, std::uint64_t index, double value) {
  const auto single = static_cast<float>(value);
  switch (dtype) {
    case DType::float16: return put(data, index, static_cast<_Float16>(single));
    case DType::bfloat16: return put(data, index, nearestBfloat(single));
    case DType::float32: return put(data, index, single);
    case DType::float64: return put(data, index, value);
    default: throw std::logic_error("no floating type");
  }
}

bool isNan(DType dtype, const std::byte* data, std::uint64_t index) {
  return isFloating(dtype) && std::isnan(loadFloating(dtype, data, index));
}

std::uint64_t firstDifference(DType dtype, const std::byte* a, const std::byte* b,
                              std::uint64_t numel) {
  const auto size = elementSize(dtype);
  for (std::uint64_t i = 0; i < numel; ++i) {
    if (std::memcmp(a + i * size, b + i * size, size) == 0) continue;
    if (!isNan(dtype, a, i) || !isNan(dtype, b, i)) return i;
  }
  return numel;
}

Bytes randomFloating(DType dtype, std::uint64_t numel, unsigned seed, bool specials) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  Bytes out(numel * elementSize(dtype));
  constexpr double kInf = std::numeric_limits<double>::infinity();
  const double special[] = {0.0,  -0.0, kInf,    -kInf,  std::nan(""), 1e-40, -1e-40, 5e-324,
                            6e-8, 3e-8, 65504.0, 65519., 65520.,       3e38,  -3e38,  1e-45};
  for (std::uint64_t i = 0; i < numel; ++i) {
    const bool odd = specials && random() % 4 == 0;
    storeFloating(dtype, out.data(), i,
                  odd ? special[random() % std::size(special)] : normal(random));
  }
  return out;
}

Bytes weightedSum(DType dtype, const std::vector<const std::byte*>& inputs,
                  const std::vector<float>& weights, std::uint64_t numel, double times,
                  double over) {
  Bytes out(numel * elementSize(dtype));
  for (std::uint64_t i = 0; i < numel; ++i) {
    double wide = 0;
    float narrow = 0;
    for (std::size_t k = 0; k < inputs.size(); ++k) {
      const double value = loadFloating(dtype, inputs[k], i);
      const double scaled = weights[k] == 1.0F ? value : value * static_cast<double>(weights[k]);
      // The product of two floats is exact in a double, so this rounds once, like float does.
      const float single = static_cast<float>(scaled);
      wide = k == 0 ? scaled : wide + scaled;
      narrow = k == 0 ? single : narrow + single;
    }
    const double sum = dtype == DType::float64 ? wide : static_cast<double>(narrow);
    const double scaled = dtype == DType::float64 ? sum * times / over : sum * (times / over);
    storeFloating(dtype, out.data(), i, times == over ? sum : scaled);
  }
  return out;
}

Bytes explain(const fault::Report& report, const std::vector<Bytes>& inputs,
              const std::vector<float>& weights, std::uint32_t me) {
  const auto& shape = report.shape;
  const auto size = elementSize(shape.dtype);
  const bool mean = shape.op == ReduceOp::avg;
  Bytes out(shape.numel * size);
  for (const auto& chunk : report.chunks) {
    const std::uint64_t numel = chunk.stop - chunk.start;
    std::vector<const std::byte*> from;
    std::vector<float> weight;
    double total = 0;
    const auto add = [&](Rank rank) {
      from.push_back(inputs[rank.value].data() + chunk.start * size);
      weight.push_back(weights[rank.value]);
      total += static_cast<double>(weights[rank.value]);
    };
    double times = mean ? 1.0 : static_cast<double>(inputs.size()) * shape.premul;
    double over = 1.0;
    if (chunk.source == fault::Source::local) {
      add(Rank{me});
      weight.back() = 1.0F;
    } else {
      chunk.contributors.forEach(add);
      over = total;
    }
    const auto part = weightedSum(shape.dtype, from, weight, numel, times, over);
    std::memcpy(out.data() + chunk.start * size, part.data(), part.size());
  }
  return out;
}

}  // namespace papilio::engine::testing
