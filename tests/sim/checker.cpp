#include "sim/checker.hpp"

#include <algorithm>
#include <sstream>

#include "sim/node.hpp"

namespace papilio::sim {

using fault::ErrorKind;
using fault::Outcome;
using fault::Source;

namespace {

std::string listed(const ContributorSet& set) {
  std::string out = "{";
  set.forEach([&](Rank rank) { out += (out.size() > 1 ? "," : "") + std::to_string(rank.value); });
  return out + "}";
}

double elementAt(const RoundShape& shape, const Bytes& bytes, std::uint64_t index) {
  double out = 0;
  withType(shape.dtype, [&](auto type) {
    using T = decltype(type);
    T value;
    std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
    out = static_cast<double>(value);
  });
  return out;
}

bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// Rounds to the element type, as storing it does.
double rounded(const RoundShape& shape, double value) {
  return shape.dtype == DType::float32 ? static_cast<double>(static_cast<float>(value)) : value;
}

}  // namespace

void Checker::fail(Rank rank, Seq seq, const std::string& what) {
  fail("rank " + std::to_string(rank.value) + " seq " + std::to_string(seq.value) + ": " + what);
}

void Checker::finished(Rank rank, const Finished& round) {
  ++tally_.rounds;
  tally_.longest = std::max(tally_.longest, round.active);
  if (round.active > bound_) {  // I1
    fail(rank, round.seq, "took " + std::to_string(toSeconds(round.active)) + " s");
  }
  if (round.report.seq != round.seq) fail(rank, round.seq, "report of another round");
  checkBlame(rank, round);
  if (round.shape.kind == OpKind::broadcast && !round.shape.strict) {
    broadcasts_[round.seq].push_back(
        {rank, round.error.kind, std::make_shared<const Bytes>(round.output)});
    if (round.error.kind == ErrorKind::deadline_exceeded) timed_out_.insert(round.seq);
    if (!round.error) ++tally_.broadcasts[round.report.chunks.at(0).source];
  }
  if (round.error) {
    ++tally_.errors;
    ++tally_.error_kinds[round.error.kind];
    checkTexts(rank, round);
    checkUntouched(rank, round);
    if (fault_free_) fail(rank, round.seq, "error without a fault: " + round.error.text);
    return;
  }
  checkPartition(rank, round);
  if (inPhases(round.shape)) {
    checkStrict(rank, round);
  } else {
    for (const auto& chunk : round.report.chunks) checkChunk(rank, round, chunk);
  }
  checkOutcome(rank, round);
}

void Checker::checkPartition(Rank rank, const Finished& round) {
  std::uint64_t next = 0;
  for (const auto& chunk : round.report.chunks) {
    if (chunk.start != next || (chunk.stop <= chunk.start && round.shape.numel != 0)) {
      return fail(rank, round.seq, "the report's chunks are no partition");
    }
    next = chunk.stop;
  }
  if (next != round.shape.numel) fail(rank, round.seq, "the report does not cover the tensor");
}

std::vector<double> Checker::expected(Rank rank, const Finished& round,
                                      const fault::ReportChunk& chunk) {
  const RoundShape& shape = round.shape;
  std::vector<double> sum(chunk.stop - chunk.start, 0.0);
  const auto& mine = work_.ranks[rank.value].options;
  const bool local = chunk.source == Source::local;
  if (local && mine.fallback == fault::Fallback::zero) return sum;
  chunk.contributors.forEach([&](Rank from) {
    const double weight = local ? 1.0 : static_cast<double>(work_.ranks[from.value].options.weight);
    const Input input(work_, from, round.seq);
    for (std::uint64_t i = chunk.start; i < chunk.stop; ++i) {
      sum[i - chunk.start] += weight * input.at(i);
    }
  });
  const double weight = local ? 1.0 : chunk.weight;
  const double n = work_.size();
  double factor = shape.op == ReduceOp::avg ? 1.0 / weight : n * shape.premul / weight;
  if (weight <= 0) factor = 0;
  for (double& value : sum) value = rounded(shape, value * factor);
  return sum;
}

// I2 and I3: recomputed from the inputs of the ranks that the report names.
void Checker::checkChunk(Rank rank, const Finished& round, const fault::ReportChunk& chunk) {
  ++tally_.chunks[chunk.source];
  const auto& who = chunk.contributors;
  if (who.empty()) return fail(rank, round.seq, "a chunk without contributors");
  double weight = 0;
  who.forEach([&](Rank from) {
    if (from.value >= work_.size()) return fail(rank, round.seq, "a contributor from nowhere");
    weight += static_cast<double>(work_.ranks[from.value].options.weight);
    const auto entry = entered_.find({from, round.seq});
    if (entry == entered_.end()) {
      fail(rank, round.seq, "rank " + std::to_string(from.value) + " never entered it");
    } else if (!(entry->second == round.shape)) {
      fail(rank, round.seq, "rank " + std::to_string(from.value) + " has another shape");
    }
  });
  ContributorSet self;
  self.insert(rank);
  if (chunk.source == Source::local && who != self) {
    fail(rank, round.seq, "a local chunk with contributors " + listed(who));
  }
  if (weight != chunk.weight) {
    fail(rank, round.seq,
         "reported weight " + std::to_string(chunk.weight) + " of " + listed(who) + " is " +
             std::to_string(weight));
  }
  const auto want = expected(rank, round, chunk);
  for (std::uint64_t i = chunk.start; i < chunk.stop; ++i) {
    const double got = elementAt(round.shape, round.output, i);
    if (same(got, want[i - chunk.start])) continue;
    std::ostringstream text;
    text << "element " << i << " is " << got << ", its report says " << want[i - chunk.start]
         << " (" << name(chunk.source) << " of " << listed(who) << ")";
    return fail(rank, round.seq, text.str());
  }
}

void Checker::checkOutcome(Rank rank, const Finished& round) {
  const auto all = ContributorSet::firstN(work_.size());
  ContributorSet self;
  self.insert(rank);
  bool complete = true;
  bool local = !round.report.chunks.empty();
  for (const auto& chunk : round.report.chunks) {
    complete = complete && chunk.contributors == all;
    local = local && chunk.contributors == self;
  }
  const Outcome want = complete ? Outcome::complete : local ? Outcome::local : Outcome::degraded;
  const Outcome got = round.report.outcome;
  const bool strict_local = inPhases(round.shape) && want == Outcome::local;
  if (got != want && !strict_local) {
    fail(rank, round.seq, std::string("outcome ") + name(got) + " should be " + name(want));
  }
  ++(got == Outcome::complete   ? tally_.complete
     : got == Outcome::degraded ? tally_.degraded
                                : tally_.local);
  if (fault_free_ && got != Outcome::complete) {
    fail(rank, round.seq, std::string(name(got)) + " without a fault");
  }
  if (got != Outcome::complete && round.report.blamed.empty() && round.report.late.empty() &&
      !round.report.self_suspect) {
    fail(rank, round.seq, "incomplete, and the report does not say why");
  }
}

void Checker::checkStrict(Rank rank, const Finished& round) {
  const RoundShape& shape = round.shape;
  const auto& members = round.report.chunks.empty() ? ContributorSet::firstN(work_.size())
                                                    : round.report.chunks[0].contributors;
  // Broadcast: the root's tensor, or that of the one rank that stood in for it.
  const bool stand_in = round.report.chunks.size() == 1 &&
                        round.report.chunks[0].source == Source::redone && members.count() == 1;
  const Rank giver = stand_in ? members.ranks().front() : Rank{shape.root};
  if (stand_in && shape.strict) fail(rank, round.seq, "a stand-in in a strict broadcast");
  const std::uint64_t total =
      shape.kind == OpKind::allgather ? shape.numel * work_.size() : shape.numel;
  if (round.output.size() != total * elementSize(shape.dtype)) {
    return fail(rank, round.seq, "output of a wrong size");
  }
  for (std::uint64_t i = 0; i < total; ++i) {
    double want = 0;
    if (shape.kind == OpKind::broadcast) {
      want = Input(work_, giver, round.seq).at(i);
    } else if (shape.kind == OpKind::allgather) {
      const Rank from{static_cast<std::uint32_t>(i / shape.numel)};
      want = Input(work_, from, round.seq).at(i % shape.numel);
    } else {
      members.forEach([&](Rank from) { want += Input(work_, from, round.seq).at(i); });
    }
    if (same(elementAt(shape, round.output, i), want)) continue;
    return fail(rank, round.seq, "strict " + describe(shape) + ": element " + std::to_string(i));
  }
}

// After an error the tensor is as it was, or every element is explained.
void Checker::checkUntouched(Rank rank, const Finished& round) {
  if (round.output == inputBytes(work_, rank, round.seq, round.shape)) return;
  if (round.shape.kind == OpKind::allgather) return;  // outputs of a failed gather are undefined
  if (inPhases(round.shape)) return fail(rank, round.seq, "an error tore the tensor");
  for (const auto& chunk : round.report.chunks) checkChunk(rank, round, chunk);
}

// I5: whoever did nothing is not accused of anything, by nobody.
void Checker::checkBlame(Rank rank, const Finished& round) {
  for (const auto& [who, reason] : round.report.blamed) {
    if (guilty_.count(who) != 0) continue;
    fail(rank, round.seq,
         "blames innocent rank " + std::to_string(who.value) + " (" + name(reason) + ")");
  }
}

void Checker::checkTexts(Rank rank, const Finished& round) {
  const auto& error = round.error;
  if (error.text.empty()) fail(rank, round.seq, "an error without a text");
  const bool names = error.kind == ErrorKind::peer_failed ||
                     error.kind == ErrorKind::schema_mismatch || error.kind == ErrorKind::evicted;
  if (names && error.ranks.empty()) fail(rank, round.seq, "an error that names nobody");
  if (names && error.ranks.contains(rank)) fail(rank, round.seq, "an error that names itself");
  if (error.kind == ErrorKind::schema_mismatch && (error.mine.empty() || error.theirs.empty())) {
    fail(rank, round.seq, "SchemaMismatch without both shapes");
  }
}

void Checker::noticed(Rank rank, const fault::Event& event) {
  ++tally_.events[event.kind];
  if (event.detail.empty()) fail(rank, event.seq, "an event without a text");
  const bool accuses = event.kind == fault::EventKind::peer_slow ||
                       event.kind == fault::EventKind::blacklisted ||
                       event.kind == fault::EventKind::peer_lost;
  if (accuses && guilty_.count(event.rank) == 0) {
    fail(rank, event.seq,
         std::string(name(event.kind)) + " about innocent rank " +
             std::to_string(event.rank.value) + ": " + event.detail);
  }
}

void Checker::checkAgreement(const std::set<Rank>& survivors) {
  if (!agreement_) return;
  for (const auto& [seq, all] : broadcasts_) {
    const Got* first = nullptr;
    for (const auto& one : all) {
      if (one.error != ErrorKind::none) continue;
      if (first == nullptr) first = &one;
      if (*one.output != *first->output) {
        fail(one.rank, seq,
             "a broadcast gave other bytes to rank " + std::to_string(first->rank.value));
      }
    }
    for (const auto& one : all) {
      if (one.error == ErrorKind::none || survivors.count(one.rank) == 0) continue;
      // A rank stopped for longer than the timeout ends it on everybody's own clock.
      if (one.error == ErrorKind::deadline_exceeded || timed_out_.count(seq) != 0) continue;
      fail(one.rank, seq,
           std::string("a broadcast failed (") + name(one.error) + ")" +
               (first != nullptr ? ", and others returned it" : ""));
    }
  }
}

// I7: nothing is left of rounds that are over, but results for ranks that may still ask.
void Checker::quiescent(const Node& node) {
  const std::string who = "rank " + std::to_string(node.rank().value) + " at the end: ";
  if (!node.through()) {
    fail(who + "stuck, " + std::to_string(node.openRounds()) + " rounds open, entered seq " +
         std::to_string(node.entered().value));
  }
  const auto& machine = node.machine();
  const auto& options = work_.ranks[node.rank().value].options;
  if (node.openRounds() != 0) fail(who + "rounds still open");
  if (!machine.idle()) fail(who + "the machine is not idle");
  if (machine.keptBytes() != node.resultBytes()) {
    fail(who + "machine and node disagree on kept bytes: " + std::to_string(machine.keptBytes()) +
         " and " + std::to_string(node.resultBytes()));
  }
  if (machine.keptBytes() > options.retention_bytes) fail(who + "keeps too many results");
  if (node.queuedMessages() != 0) {
    fail(who + std::to_string(node.queuedMessages()) + " messages still queued");
  }
  if (node.unanswered() != 0) fail(who + "credits are missing");
  if (node.contributionBytes() != 0) {
    fail(who + std::to_string(node.contributionBytes()) + " contribution bytes still kept");
  }
  if (fault_free_ && machine.roundsHeld() > 4) {
    fail(who + "holds " + std::to_string(machine.roundsHeld()) + " rounds");
  }
}

}  // namespace papilio::sim
