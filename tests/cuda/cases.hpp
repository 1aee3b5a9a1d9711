// Random reductions for the kernels and their twins: inputs, weights and factors that reach the
// special values, and what the engine's host kernels make of them.
#pragma once

#include <random>
#include <vector>

#include "cuda/bodies.hpp"
#include "engine/kernels.hpp"
#include "engine/oracle.hpp"

namespace papilio::cuda::testing {

using engine::testing::Bytes;

inline constexpr DType kFloating[] = {DType::float16, DType::bfloat16, DType::float32,
                                      DType::float64};
// NaN, infinity, subnormals and -0 are among the values with `specials`.
struct Case {
  DType dtype{};
  std::uint64_t numel = 0;
  std::vector<Bytes> inputs;
  std::vector<float> weights;
  double times = 1.0;
  double over = 1.0;

  Bytes expected() const {
    std::vector<engine::ReduceInput> in;
    for (std::size_t k = 0; k < inputs.size(); ++k) in.push_back({inputs[k].data(), weights[k]});
    Bytes out(numel * elementSize(dtype));
    engine::reduceWeighted(dtype, in, numel, {times, over}, out.data());
    return out;
  }
};

template <class Random>
Case randomCase(DType dtype, std::uint64_t numel, unsigned members, Random& random) {
  constexpr float kWeights[] = {1.0F, 1.0F, 0.0F, 0.25F, 3.0F, 1.0F / 3.0F, 1e-3F, 1e4F};
  constexpr double kFactors[][2] = {{1, 1}, {3, 3}, {1, 3}, {8, 7}, {2.5, 1}, {1e-6, 0.7}};
  Case made;
  made.dtype = dtype;
  made.numel = numel;
  const bool specials = random() % 2 == 0;
  for (unsigned k = 0; k < members; ++k) {
    made.inputs.push_back(
        engine::testing::randomFloating(dtype, numel, static_cast<unsigned>(random()), specials));
    made.weights.push_back(kWeights[random() % std::size(kWeights)]);
  }
  const auto& factor = kFactors[random() % std::size(kFactors)];
  made.times = factor[0];
  made.over = factor[1];
  return made;
}

}  // namespace papilio::cuda::testing
