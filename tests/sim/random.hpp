// The only source of chance in a simulated run: small, seeded, the same on every machine.
#pragma once

#include <cstdint>

#include "core/hash.hpp"
#include "core/time.hpp"

namespace papilio::sim {

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(mix64(seed + 0x9e3779b97f4a7c15ULL)) {}

  std::uint64_t bits() {  // SplitMix64
    state_ += 0x9e3779b97f4a7c15ULL;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  // Uniform in [low, high], both included.
  std::uint64_t between(std::uint64_t low, std::uint64_t high) {
    return low + bits() % (high - low + 1);
  }
  std::uint32_t rank(std::uint32_t n) { return static_cast<std::uint32_t>(bits() % n); }
  double unit() { return static_cast<double>(bits() >> 11) * 0x1.0p-53; }
  bool chance(double probability) { return probability > 0 && unit() < probability; }
  Duration upTo(Duration most) {
    return Duration{static_cast<std::int64_t>(unit() * static_cast<double>(most.count()))};
  }

 private:
  std::uint64_t state_;
};

}  // namespace papilio::sim
