// A simulated job: nodes, network, faults, checkers, one seed.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "sim/checker.hpp"
#include "sim/event_queue.hpp"
#include "sim/network.hpp"
#include "sim/node.hpp"
#include "sim/random.hpp"
#include "sim/workload.hpp"

namespace papilio::sim {

class World final : public Observer {
 public:
  World(Workload work, std::uint64_t seed, bool tracing = false);

  // Faults, at once. Others hear of a crash after `evidence_after` and up to as long again, or
  // exactly when `told` says.
  void crash(Rank rank, Duration evidence_after = 10ms, const std::map<Rank, Duration>& told = {});
  void pause(Rank rank, Duration length);
  void leave(Rank rank);
  void block(Rank from, Rank to, Duration length);
  void slowLink(Rank from, Rank to, double bytes_per_second);
  // Runs `action` when `rank` enters `seq`, plus a delay.
  void onEnter(Rank rank, Seq seq, Duration delay, std::function<void()> action);
  void at(Duration when, std::function<void()> action) {
    queue_.at(Instant{} + when, std::move(action));
  }

  // Runs until nothing can happen any more, then checks what is left. False: too many events.
  bool run(std::uint64_t most_events = 3'000'000);

  Node& node(Rank rank) { return *nodes_[rank.value]; }
  Network& network() { return network_; }
  HostRounds& hosts() { return hosts_; }
  Checker& checker() { return checker_; }
  const Workload& work() const { return work_; }
  std::uint64_t fired() const { return fired_; }
  void noteFired() { ++fired_; }
  const std::vector<std::string>& lines() const { return lines_; }
  struct Return {
    Rank rank;
    Finished round;
    Instant when;
  };
  const std::vector<Return>& returns() const { return returns_; }
  const std::vector<std::pair<Rank, fault::Event>>& events() const { return events_; }
  Instant now() const { return queue_.now(); }

  // Observer.
  void entered(Rank rank, Seq seq, const RoundShape& shape) override;
  void finished(Rank rank, const Finished& round) override;
  void noticed(Rank rank, const fault::Event& event) override;
  void leaving(Rank rank) override {
    checker_.mark(rank);
    hosts_.gone(rank);
  }
  bool tracing() const override { return tracing_; }
  void trace(Rank rank, const std::string& line) override;

 private:
  Workload work_;
  EventQueue queue_;
  Random random_;
  Network network_;
  HostRounds hosts_;
  Checker checker_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::multimap<std::pair<Rank, Seq>, std::pair<Duration, std::function<void()>>> triggers_;
  std::vector<std::string> lines_;
  std::vector<Return> returns_;  // without outputs
  std::vector<std::pair<Rank, fault::Event>> events_;
  std::uint64_t fired_ = 0;
  bool tracing_;
};

}  // namespace papilio::sim
