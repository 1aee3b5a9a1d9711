// What the ranks of one host have combined before a tolerant round: whose data every range of this
// rank's tensor is made of (docs/adr/0012).
#pragma once

#include <vector>

#include "core/contributor_set.hpp"
#include "core/dtype.hpp"
#include "fault/report.hpp"

namespace papilio::fault {

struct HostShare {
  // Partition of [0, numel), contributors as ranks of the whole group; empty: nothing was combined,
  // the tensor is this rank's own.
  std::vector<ReportChunk> ranges;
  ContributorSet nonfinite;  // left out somewhere because of NaN or Inf
  bool combined() const { return !ranges.empty(); }
};

// A combined range holds the sum of the weighted contributions, so that the final mean is divided
// once and rounded once. Two bytes have no room for sums: there it is their weighted mean.
constexpr bool combinedIsSum(DType dtype) {
  return dtype == DType::float32 || dtype == DType::float64;
}

}  // namespace papilio::fault
