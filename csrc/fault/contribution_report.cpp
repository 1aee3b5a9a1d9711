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
  std::vector<ReportChunk> entries;
  for (std::uint32_t c = 0; c < chunks_.size(); ++c) {
    const Chunk& chunk = chunks_[c];
    const auto range = layout_.range(ChunkIndex{c});
    if (chunk.source == Source::local && chunk.state == State::got) {
      localEntries(ChunkIndex{c}, entries);
    } else {
      entries.push_back({range.start, range.stop, chunk.source, chunk.contributors, chunk.weight});
    }
  }
  for (const ReportChunk& entry : entries) {
    complete = complete && entry.contributors == all;
    all_local = all_local && entry.contributors == self;
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

void Contribution::blame(Report& report, Rank rank) const {
  if (rank == members_.me() || members_.refusedBy(rank)) {
    report.late.insert(members_.me());
  } else {
    report.blamed.emplace(rank, members_.blameFor(rank));
  }
}

// Some had the chunk before its reducer closed it, and nobody else is missing.
void Contribution::blameForSettled(Report& report, const Chunk& chunk, Rank owner) const {
  const Rank me = members_.me();
  const Rank reducer{(owner.value + chunk.attempt) % members_.size()};
  if (reducer == me && members_.at(me).routed_around) {
    report.late.insert(me);  // they gave this rank up, or went around it
  } else if (reducer != me && members_.at(reducer).routed_around) {
    blame(report, reducer);
  } else {
    // They had it before its reducer failed: that one is to blame, and whoever else was passed over
    // on the way to the successor.
    for (std::uint32_t k = 0; k < chunk.attempt; ++k) {
      blame(report, Rank{(owner.value + k) % members_.size()});
    }
  }
}

// The reducer says who is to blame, except for what this rank knows for certain.
void Contribution::blameFor(Report& report, const Chunk& chunk, Rank owner) const {
  const Rank me = members_.me();
  bool explained = !chunk.blamed.empty();
  bool through = false;
  (members_.all() - chunk.contributors).forEach([&](Rank missing) {
    const bool certain =
        !members_.counts(missing) || members_.at(missing).voted_out || members_.refusedBy(missing);
    if (certain) {
      blame(report, missing);
    } else if (chunk.nonfinite.contains(missing)) {
      report.blamed.emplace(missing, Reason::nonfinite);
    } else if (chunk.corrupt.contains(missing)) {
      report.blamed.emplace(missing, Reason::corrupt);
    } else if (missing == me) {
      report.late.insert(me);
    } else {
      through = through || members_.at(missing).settled_before > seq_;
      return;
    }
    explained = true;
  });
  chunk.blamed.forEach([&](Rank rank) { blame(report, rank); });
  if (explained || (chunk.why & kOthersSettled) == 0) return;
  const bool own = (owner.value + chunk.attempt) % members_.size() == me.value;
  if (own && through) {
    report.late.insert(me);  // they were through before this rank came
  } else {
    blameForSettled(report, chunk, owner);
  }
}

void Contribution::blameMissing(Report& report) const {
  const auto all = members_.all();
  for (std::uint32_t c = 0; c < chunks_.size(); ++c) {
    const Chunk& chunk = chunks_[c];
    if (chunk.contributors.empty()) continue;  // not settled: the call ends in an error
    (host_.nonfinite - chunk.contributors).forEach([&](Rank rank) {
      if (rank != members_.me()) report.blamed.emplace(rank, Reason::nonfinite);
    });
    if (chunk.source == Source::local) continue;  // its reducer is blamed below
    if (chunk.contributors != all) blameFor(report, chunk, layout_.owner(ChunkIndex{c}));
  }
  if (behind_) report.late.insert(members_.me());
  for (const auto& [rank, reason] : failed_reducers_) {
    if (report.outcome == Outcome::complete) continue;
    if (reason == Reason::none || members_.refusedBy(rank)) {
      blame(report, rank);
    } else {
      report.blamed.emplace(rank, reason);
    }
  }
  const bool said = !report.blamed.empty() || !report.late.empty();
  if (report.outcome == Outcome::complete || said || !done()) return;
  for (const Chunk& chunk : chunks_) {  // never without a reason
    (all - chunk.contributors).forEach([&](Rank rank) {
      const Member& member = members_.at(rank);
      // It came too late, and there is nothing against it.
      const bool innocent = !members_.doubted(rank) || (member.held && member.held_by.empty());
      if (innocent) report.late.insert(rank);
      if (!innocent && !member.held) blame(report, rank);
      member.held_by.forEach([&](Rank other) { blame(report, other); });
    });
  }
}

}  // namespace papilio::fault
