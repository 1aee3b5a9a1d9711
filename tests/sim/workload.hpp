// What the ranks of a simulated job do: the same collectives in the same order, unless the script
// says that one of them is different. Also the ground truth of every input byte.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <vector>

#include "core/hash.hpp"
#include "core/round_shape.hpp"
#include "core/time.hpp"
#include "fault/options.hpp"
#include "sim/network.hpp"

namespace papilio::sim {

// A collective in phases, with or without a result in spite of a death; the rest are tolerant
// all-reduces.
inline bool inPhases(const RoundShape& shape) {
  return shape.strict || shape.kind != OpKind::allreduce;
}

// One rank's part.
struct RankPlan {
  fault::GroupOptions options;
  Duration compute = 1ms;               // between two collectives
  double clock_rate = 1.0;              // seconds of its clock per second of the world
  std::map<Seq, Duration> lag;          // extra computing before that one
  std::map<Seq, RoundShape> other;      // what this rank calls instead
  std::map<Seq, std::uint64_t> nan_at;  // that element of its input is NaN
  bool stops_on_mismatch = true;        // after SchemaMismatch or Evicted it leaves the group
};

struct Workload {
  std::vector<RoundShape> ops;  // collective seq is ops[seq - 1]
  std::vector<RankPlan> ranks;
  std::vector<std::uint32_t> hosts;  // by rank; empty: everybody has its own
  std::uint32_t depth = 1;           // collectives in flight per rank
  Duration timeout = 60s;
  std::map<Seq, Instant> not_before;  // nobody starts that collective earlier
  Duration timer_slack{};             // a node's timers come late by up to this, as on a busy host

  std::uint32_t size() const { return static_cast<std::uint32_t>(ranks.size()); }
  RoundShape shapeFor(Rank rank, Seq seq) const {
    const auto& other = ranks[rank.value].other;
    const auto it = other.find(seq);
    RoundShape shape = it != other.end() ? it->second : ops[seq.value - 1];
    if (!inPhases(shape)) shape.fingerprint = ranks[rank.value].options.fingerprint;
    return shape;
  }
};

// Inputs are small integers that encode (rank, seq, index): sums of them are exact, and a byte of
// another sender, round or place gives another sum.
class Input {
 public:
  Input(const Workload& work, Rank rank, Seq seq)
      : tag_(mix64(rank.value * 0x10001ULL + seq.value * 0x100000001ULL)) {
    const auto& nan_at = work.ranks[rank.value].nan_at;
    if (const auto it = nan_at.find(seq); it != nan_at.end()) nan_at_ = it->second;
  }
  double at(std::uint64_t index) const {
    if (nan_at_ && *nan_at_ == index) return std::numeric_limits<double>::quiet_NaN();
    return static_cast<double>(1 + (((tag_ + index) * 0x9e3779b97f4a7c15ULL) >> 52));
  }

 private:
  std::uint64_t tag_;
  std::optional<std::uint64_t> nan_at_;
};

// Calls fn with a value of the C++ type of the element: float32, float64 or int64.
template <class Fn>
void withType(DType dtype, Fn&& fn) {
  if (dtype == DType::float32) return fn(float{});
  if (dtype == DType::float64) return fn(double{});
  return fn(std::int64_t{});
}

inline Bytes inputBytes(const Workload& work, Rank rank, Seq seq, const RoundShape& shape) {
  Bytes out(shape.numel * elementSize(shape.dtype));
  const Input input(work, rank, seq);
  withType(shape.dtype, [&](auto type) {
    using T = decltype(type);
    for (std::uint64_t i = 0; i < shape.numel; ++i) {
      const T value = static_cast<T>(input.at(i));
      std::memcpy(out.data() + i * sizeof(T), &value, sizeof(T));
    }
  });
  return out;
}

}  // namespace papilio::sim
