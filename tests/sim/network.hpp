// Two lanes per pair of ranks: data (may reorder, repeat, damage) and control (reliable, in order,
// like one TCP connection). A blocked direction holds messages back as TCP does; when it stays
// blocked too long the connection breaks at both ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "core/ids.hpp"
#include "sim/event_queue.hpp"
#include "sim/random.hpp"

namespace papilio::sim {

using Bytes = std::vector<std::byte>;
using SharedBytes = std::shared_ptr<const Bytes>;

// One direction between two ranks.
struct Link {
  Duration latency = 50us;
  Duration jitter{};  // on top, uniform; on the data lane messages overtake each other within it
  Duration control_delay{};  // on top, on the control lane alone
  double bytes_per_second = 2e9;
  double duplicate = 0;  // probabilities per data message
  double corrupt_payload = 0;
  double corrupt_header = 0;
  bool blocked = false;
};

struct DataMessage {
  Rank from;
  SharedBytes header;
  SharedBytes payload;
  std::function<void()> taken;  // the receiver consumed it: the sender's window opens
};

// What happened to messages, so that a test can prove that its fault took place.
struct NetworkCounters {
  std::uint64_t data = 0, control = 0, duplicated = 0, corrupted = 0, held = 0, broken = 0;
};

class Endpoint {
 public:
  virtual ~Endpoint() = default;
  virtual void arrives(DataMessage message) = 0;
  virtual void arrivesControl(Rank from, SharedBytes frame) = 0;
  // The connection to `peer` broke.
  virtual void connectionLost(Rank peer) = 0;
};

class Network {
 public:
  Network(EventQueue& queue, Random& random, std::uint32_t n);

  void attach(Rank rank, Endpoint* endpoint) { endpoints_[rank.value] = endpoint; }
  Link& link(Rank from, Rank to) { return links_[from.value * n_ + to.value].link; }
  // Of payloads, given to that direction.
  std::uint64_t bytes(Rank from, Rank to) const { return links_[from.value * n_ + to.value].bytes; }
  void sendData(Rank from, Rank to, SharedBytes header, SharedBytes payload,
                std::function<void()> taken);
  void sendControl(Rank from, Rank to, Bytes frame);
  // From now on; what waits in front of the link goes at the new rate as well.
  void setRate(Rank from, Rank to, double bytes_per_second);
  void block(Rank from, Rank to);
  void unblock(Rank from, Rank to);
  const NetworkCounters& counters() const { return counters_; }

  // A blocked direction breaks the connection after this long (TCP_USER_TIMEOUT).
  static constexpr Duration kBreakAfter = 15s;

 private:
  struct Transit {
    DataMessage message;
    Instant leaves;  // the wire
    Duration after;  // until it arrives
    bool arrived = false;
  };
  struct Direction {
    Link link;
    Instant data_free{};   // when the wire has taken all that was sent so far
    Instant control_at{};  // arrival of the newest control frame: the lane keeps order
    std::vector<std::function<void()>> held;
    std::deque<std::shared_ptr<Transit>> transits;
    std::uint64_t bytes = 0;
    std::uint64_t blocks = 0;  // counts block(), so that an old timer finds itself outdated
    bool broken = false;
  };
  Direction& direction(Rank from, Rank to) { return links_[from.value * n_ + to.value]; }
  void hold(Rank from, Rank to, std::function<void()> carry);
  void carryData(Rank from, Rank to, DataMessage message);
  void deliver(Rank from, Rank to, const std::shared_ptr<Transit>& transit);
  void carryControl(Rank from, Rank to, SharedBytes frame);
  void breakConnection(Rank a, Rank b);
  SharedBytes damaged(const SharedBytes& bytes);

  EventQueue& queue_;
  Random& random_;
  std::uint32_t n_;
  std::vector<Direction> links_;
  std::vector<Endpoint*> endpoints_;
  NetworkCounters counters_;
};

}  // namespace papilio::sim
