// The report of a tolerant round: what every element of the tensor is made of.
#include <algorithm>

#include "fault/contribution.hpp"

namespace papilio::fault {

Report Contribution::report() const {
  Report report;
  report.shape = shape_;
  report.seq = seq_;
  report.nbytes = shape_.numel * elementSize(shape_.dtype);
  const auto all = members_.all();
  ContributorSet self;
  self.insert(members_.me());
  bool complete = true;
  bool all_local = !chunks_.empty();
  for (std::uint32_t c = 0; c < chunks_.size(); ++c) {
    const Chunk& chunk = chunks_[c];
    const auto range = layout_.range(ChunkIndex{c});
    complete = complete && chunk.contributors == all;
    all_local = all_local && chunk.contributors == self;
    const ReportChunk entry{range.start, range.stop, chunk.source, chunk.contributors,
                            chunk.weight};
    auto* last = report.chunks.empty() ? nullptr : &report.chunks.back();
    if (last != nullptr && last->stop == entry.start && last->source == entry.source &&
        last->contributors == entry.contributors && last->weight == entry.weight) {
      last->stop = entry.stop;
    } else {
      report.chunks.push_back(entry);
    }
  }
  report.outcome = complete ? Outcome::complete : all_local ? Outcome::local : Outcome::degraded;
  blameMissing(report);
  return report;
}

void Contribution::blameMissing(Report& report) const {
  const auto all = members_.all();
  for (const Chunk& chunk : chunks_) {
    if (chunk.source == Source::local) continue;  // its reducer is blamed below
    (all - chunk.contributors).forEach([&](Rank rank) {
      if (rank == members_.me()) {
        report.late.insert(rank);
      } else {
        report.blamed.emplace(rank, members_.blameFor(rank));
      }
    });
  }
  for (const auto& [rank, reason] : failed_reducers_) {
    if (report.outcome != Outcome::complete) report.blamed.emplace(rank, reason);
  }
}

}  // namespace papilio::fault
