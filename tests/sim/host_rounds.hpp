// What the ranks of one simulated host combine before a tolerant round: a stand-in for the rounds
// of the host's own group. It always explains what it hands out; when somebody is slow, dead or
// disturbed, ranks get different things, as they would there.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "fault/host_share.hpp"
#include "sim/event_queue.hpp"
#include "sim/random.hpp"
#include "sim/workload.hpp"

namespace papilio::sim {

class HostRounds {
 public:
  // Runs once; `data` replaces the tensor. An empty share: the ranks could not combine anything.
  using Done = std::function<void(fault::HostShare share, Bytes data)>;

  HostRounds(EventQueue& queue, Random& random, const Workload& work)
      : queue_(queue), random_(random), work_(work) {}

  // Does this rank share a host with another one, and is it worth it?
  bool combines(Rank rank, const RoundShape& shape) const;
  void join(Rank rank, Seq seq, const RoundShape& shape, Done done);
  // Its process has ended, or it has left.
  void gone(Rank rank);
  // From now on ranks now and then get something else than their neighbours.
  void disturb() { disturbed_ = true; }

 private:
  struct Round {
    RoundShape shape;
    bool differs = false;  // somebody came with another shape
    bool over = false;
    std::map<Rank, Done> waiting;
    ContributorSet in;  // whose data is in it
  };
  using Key = std::pair<std::uint32_t, Seq>;  // host and collective

  ContributorSet living(std::uint32_t host) const;
  void finishIfAll(const Key& key);
  void finish(const Key& key);
  void hand(const Key& key, Rank to, const Done& done);
  fault::HostShare shareFor(const Key& key, Rank to);
  Bytes made(const RoundShape& shape, Seq seq, const fault::HostShare& share) const;
  fault::ReportChunk range(std::uint64_t start, std::uint64_t stop,
                           const ContributorSet& who) const;

  EventQueue& queue_;
  Random& random_;
  const Workload& work_;
  std::map<Key, Round> rounds_;
  std::set<Rank> gone_;
  bool disturbed_ = false;
};

}  // namespace papilio::sim
