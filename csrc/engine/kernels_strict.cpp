// Reductions of strict collectives: every dtype and operation, all members, in rank order.
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <type_traits>
#include <vector>

#include "engine/half.hpp"
#include "engine/kernels.hpp"

namespace papilio::engine {
namespace {

// Signed overflow wraps, like torch: add and multiply in the unsigned type.
template <class T>
T wrapAdd(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(static_cast<U>(a) + static_cast<U>(b)));
  } else {
    return a + b;
  }
}
template <class T>
T wrapMultiply(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    // Through 64 bits: a product of two 16-bit numbers would overflow int.
    return static_cast<T>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
  } else {
    return a * b;
  }
}

// NaN wins, as in torch.minimum and torch.maximum.
template <class T>
T least(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a) || std::isnan(b)) return a + b;
  }
  return std::min(a, b);
}
template <class T>
T greatest(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a) || std::isnan(b)) return a + b;
  }
  return std::max(a, b);
}

template <class T>
T combine(ReduceOp op, T a, T b) {
  if constexpr (!std::is_arithmetic_v<T>) {  // complex
    return op == ReduceOp::product ? a * b : a + b;
  } else {
    switch (op) {
      case ReduceOp::product: return wrapMultiply(a, b);
      case ReduceOp::min: return least(a, b);
      case ReduceOp::max: return greatest(a, b);
      default: break;
    }
    if constexpr (std::is_integral_v<T>) {
      switch (op) {
        case ReduceOp::band: return static_cast<T>(a & b);
        case ReduceOp::bor: return static_cast<T>(a | b);
        case ReduceOp::bxor: return static_cast<T>(a ^ b);
        default: break;
      }
    }
    return wrapAdd(a, b);
  }
}

// T: how it lies in memory; C: what it is computed in.
template <class T, class C, class Load, class Store>
void fold(ReduceOp op, std::span<const std::byte* const> inputs, std::uint64_t numel, Load load,
          Store store, std::byte* out) {
  for (std::uint64_t i = 0; i < numel; ++i) {
    C acc = load(reinterpret_cast<const T*>(inputs[0])[i]);
    for (std::size_t k = 1; k < inputs.size(); ++k) {
      acc = combine<C>(op, acc, load(reinterpret_cast<const T*>(inputs[k])[i]));
    }
    store(acc, reinterpret_cast<T*>(out)[i]);
  }
}

template <class T>
void foldPlain(ReduceOp op, std::span<const std::byte* const> inputs, std::uint64_t numel,
               std::byte* out) {
  const auto load = [](T value) { return value; };
  const auto store = [](T value, T& to) { to = value; };
  fold<T, T>(op, inputs, numel, load, store, out);
}

template <class T>
void foldHalf(ReduceOp op, std::span<const std::byte* const> inputs, std::uint64_t numel,
              std::byte* out) {
  const auto load = [](T value) { return toFloat(value); };
  const auto store = [](float value, T& to) { fromFloat(value, to); };
  fold<T, float>(op, inputs, numel, load, store, out);
}

// Sum and product of booleans are or and and; any non-zero byte counts as true.
void foldBool(ReduceOp op, std::span<const std::byte* const> inputs, std::uint64_t numel,
              std::byte* out) {
  const bool all = op == ReduceOp::product || op == ReduceOp::min || op == ReduceOp::band;
  for (std::uint64_t i = 0; i < numel; ++i) {
    bool acc = inputs[0][i] != std::byte{0};
    for (std::size_t k = 1; k < inputs.size(); ++k) {
      const bool value = inputs[k][i] != std::byte{0};
      acc = op == ReduceOp::bxor ? acc != value : all ? (acc && value) : (acc || value);
    }
    out[i] = std::byte{acc};
  }
}

template <class T>
void scaleComplex(std::byte* data, std::uint64_t numel, T times, T over) {
  auto* values = reinterpret_cast<std::complex<T>*>(data);
  for (std::uint64_t i = 0; i < numel; ++i) values[i] = values[i] * times / over;
}

void dispatch(DType dtype, ReduceOp op, std::span<const std::byte* const> inputs,
              std::uint64_t numel, std::byte* out) {
  switch (dtype) {
    case DType::float16: return foldHalf<Float16>(op, inputs, numel, out);
    case DType::bfloat16: return foldHalf<BFloat16>(op, inputs, numel, out);
    case DType::float32: return foldPlain<float>(op, inputs, numel, out);
    case DType::float64: return foldPlain<double>(op, inputs, numel, out);
    case DType::int8: return foldPlain<std::int8_t>(op, inputs, numel, out);
    case DType::uint8: return foldPlain<std::uint8_t>(op, inputs, numel, out);
    case DType::int16: return foldPlain<std::int16_t>(op, inputs, numel, out);
    case DType::int32: return foldPlain<std::int32_t>(op, inputs, numel, out);
    case DType::int64: return foldPlain<std::int64_t>(op, inputs, numel, out);
    case DType::boolean: return foldBool(op, inputs, numel, out);
    case DType::complex64: return foldPlain<std::complex<float>>(op, inputs, numel, out);
    case DType::complex128: return foldPlain<std::complex<double>>(op, inputs, numel, out);
  }
}

}  // namespace

void reduceStrict(DType dtype, ReduceOp op, std::span<const std::byte* const> inputs,
                  std::uint64_t numel, double premul, std::byte* out) {
  if (inputs.empty() || numel == 0) return;
  Factor factor;
  if (op == ReduceOp::avg) factor.over = static_cast<double>(inputs.size());
  if (op == ReduceOp::premul_sum) factor.times = premul;
  const bool sums = op == ReduceOp::sum || op == ReduceOp::avg || op == ReduceOp::premul_sum;
  if (sums && isFloating(dtype)) {
    std::vector<ReduceInput> weighted;
    for (const auto* input : inputs) weighted.push_back({input, 1.0F});
    return reduceWeighted(dtype, weighted, numel, factor, out);
  }
  dispatch(dtype, op, inputs, numel, out);
  if (factor.one()) return;
  const auto narrow = [](double value) { return static_cast<float>(value); };
  if (dtype == DType::complex64) {
    scaleComplex<float>(out, numel, narrow(factor.times), narrow(factor.over));
  }
  if (dtype == DType::complex128) scaleComplex<double>(out, numel, factor.times, factor.over);
}

}  // namespace papilio::engine
