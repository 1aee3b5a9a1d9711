// The invariants of protocol H2, checked against what really happened in the simulated world.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "sim/observer.hpp"
#include "sim/workload.hpp"

namespace papilio::sim {

class Node;

class Checker {
 public:
  explicit Checker(const Workload& work) : work_(work) {}

  // Ground truth.
  void entered(Rank rank, Seq seq, const RoundShape& shape) { entered_[{rank, seq}] = shape; }
  // Something was done to this rank (or by it): others may now complain about it.
  void mark(Rank rank) { guilty_.insert(rank); }
  // Nothing was done to anybody: every report must be complete.
  void expectFaultFree() { fault_free_ = true; }
  // Nobody lost a connection to a live rank, nothing was damaged: tolerant broadcasts agree.
  void expectAgreement() { agreement_ = true; }
  // Rounds may take at most this long on the caller's clock (I1).
  void setBound(Duration bound) { bound_ = bound; }

  void finished(Rank rank, const Finished& round);
  void noticed(Rank rank, const fault::Event& event);
  // After the last event of the run.
  void quiescent(const Node& node);
  // All that returned a tolerant broadcast have the same bytes, and then no survivor has an error.
  void checkAgreement(const std::set<Rank>& survivors);
  void fail(const std::string& what) { violations_.push_back(what); }

  const std::vector<std::string>& violations() const { return violations_; }
  struct Tally {
    std::uint64_t rounds = 0, complete = 0, degraded = 0, local = 0, errors = 0;
    std::map<fault::Source, std::uint64_t> chunks;
    std::map<fault::EventKind, std::uint64_t> events;
    std::map<fault::ErrorKind, std::uint64_t> error_kinds;
    std::map<fault::Source, std::uint64_t> broadcasts;  // tolerant ones that returned
    Duration longest{};
  };
  const Tally& tally() const { return tally_; }

 private:
  void fail(Rank rank, Seq seq, const std::string& what);
  void checkPartition(Rank rank, const Finished& round);
  void checkChunk(Rank rank, const Finished& round, const fault::ReportChunk& chunk);
  void checkOutcome(Rank rank, const Finished& round);
  void checkStrict(Rank rank, const Finished& round);
  void checkUntouched(Rank rank, const Finished& round);
  void checkBlame(Rank rank, const Finished& round);
  void checkTexts(Rank rank, const Finished& round);
  // What the elements of the chunk must be, from the inputs of `contributors` alone.
  std::vector<double> expected(Rank rank, const Finished& round, const fault::ReportChunk& chunk);

  const Workload& work_;
  std::map<std::pair<Rank, Seq>, RoundShape> entered_;
  std::set<Rank> guilty_;
  struct Got {
    Rank rank;
    fault::ErrorKind error;
    SharedBytes output;
  };
  std::map<Seq, std::vector<Got>> broadcasts_;
  std::set<Seq> timed_out_;  // broadcasts
  bool fault_free_ = false;
  bool agreement_ = false;
  Duration bound_ = 121s;
  std::vector<std::string> violations_;
  Tally tally_;
};

}  // namespace papilio::sim
