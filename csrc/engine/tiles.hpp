// The inner loops of the reductions: what a kernel does to one tile, which stays in the first-level
// cache while all inputs pass by.
#pragma once

#include <cstdint>

#include "engine/half.hpp"
#include "engine/kernels.hpp"

namespace papilio::engine::tile {

inline constexpr std::uint64_t kSize = 2048;  // elements

// acc += in * weight, or acc = in * weight for the first.
void add(float* acc, const float* in, std::uint64_t n, float weight, bool first);
void add(float* acc, const BFloat16* in, std::uint64_t n, float weight, bool first);
void add(float* acc, const Float16* in, std::uint64_t n, float weight, bool first);
void add(double* acc, const double* in, std::uint64_t n, double weight, bool first);

// out = acc * factor, rounded once.
void store(const float* acc, float* out, std::uint64_t n, double factor);
void store(const float* acc, BFloat16* out, std::uint64_t n, double factor);
void store(const float* acc, Float16* out, std::uint64_t n, double factor);
void store(const double* acc, double* out, std::uint64_t n, Factor factor);

}  // namespace papilio::engine::tile
