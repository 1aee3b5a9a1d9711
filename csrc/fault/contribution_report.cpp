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

// Whoever could not contribute because it waited for others is not to blame; they are.
void Contribution::blameWaits(Report& report, Rank missing) const {
  const auto& held_by = members_.at(missing).held_by;
  if (held_by.empty() || !members_.counts(missing) || members_.at(missing).voted_out) {
    report.blamed.emplace(missing, members_.blameFor(missing));
    return;
  }
  held_by.forEach([&](Rank rank) {
    if (rank == members_.me()) {
      report.late.insert(rank);
    } else {
      report.blamed.emplace(rank, members_.blameFor(rank));
    }
  });
}

void Contribution::blameFor(Report& report, const Chunk& chunk, Rank owner, Rank missing) const {
  const Rank me = members_.me();
  const Rank reducer{(owner.value + chunk.attempt) % members_.size()};
  const bool doubted = members_.doubted(missing);
  if (missing == me && (chunk.why & kNonFiniteDropped) != 0) {
    report.blamed.emplace(me, Reason::nonfinite);
  } else if (missing == me) {
    report.late.insert(me);
  } else if (!chunk.contributors.contains(me) && members_.at(missing).held_by.empty() &&
             members_.blameFor(missing) == Reason::slow) {
    report.late.insert(me);  // one that is late itself can not tell why others are
  } else if (doubted) {
    blameWaits(report, missing);
  } else if ((chunk.why & kNonFiniteDropped) != 0) {
    report.blamed.emplace(missing, Reason::nonfinite);
  } else if (reducer == me && members_.at(missing).settled_before > seq_) {
    report.late.insert(me);  // it was through before this rank came
  } else if ((chunk.why & kOthersSettled) == 0) {
    blameWaits(report, missing);
  } else if (reducer == me && members_.at(me).routed_around) {
    report.late.insert(me);  // it gave this rank up, or went around it
  } else if (reducer != me && members_.at(reducer).routed_around) {
    report.blamed.emplace(reducer, members_.blameFor(reducer));
  } else {
    // It had the chunk before its reducer failed: that one is to blame, and whoever else was passed
    // over on the way to the successor.
    for (std::uint32_t k = 0; k < chunk.attempt; ++k) {
      const Rank passed{(owner.value + k) % members_.size()};
      if (passed == me) {
        report.late.insert(me);
      } else {
        report.blamed.emplace(passed, members_.blameFor(passed));
      }
    }
  }
}

void Contribution::blameMissing(Report& report) const {
  const auto all = members_.all();
  for (std::uint32_t c = 0; c < chunks_.size(); ++c) {
    const Chunk& chunk = chunks_[c];
    if (chunk.contributors.empty()) continue;     // not settled: the call ends in an error
    if (chunk.source == Source::local) continue;  // its reducer is blamed below
    const Rank owner = layout_.owner(ChunkIndex{c});
    (all - chunk.contributors).forEach([&](Rank rank) { blameFor(report, chunk, owner, rank); });
  }
  if (behind_) report.late.insert(members_.me());
  for (const auto& [rank, reason] : failed_reducers_) {
    if (report.outcome != Outcome::complete) report.blamed.emplace(rank, reason);
  }
  const bool said = !report.blamed.empty() || !report.late.empty();
  if (report.outcome == Outcome::complete || said || !done()) return;
  for (const Chunk& chunk : chunks_) {  // never without a reason
    (all - chunk.contributors).forEach([&](Rank rank) { blameWaits(report, rank); });
  }
}

}  // namespace papilio::fault
