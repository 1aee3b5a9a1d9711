// Two lanes without sockets: connects several engines of one process through queues, and does to
// them what real networks and peers do. All switches may be turned from any thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <vector>

#include "engine/engine.hpp"

namespace papilio::engine::testing {

struct FakeNode;

class FakeNetwork {
 public:
  // Nodes are numbered in the order in which their lanes are opened.
  LaneFactory lanes();

  // The process is gone: its peers see it end, its sends fail, nothing of it arrives any more.
  void kill(std::size_t node);
  // Its progress thread stands still, like in a stopped process; sends to it do not complete.
  void freeze(std::size_t node);
  void thaw(std::size_t node);
  // Messages of one direction stay with the sender (their memory too) until released.
  void stall(std::size_t from, std::size_t to, bool on = true);
  // Control frames of one direction are kept back until released: one lane overtakes the other.
  void holdControl(std::size_t from, std::size_t to, bool on = true);
  // That share of the control frames goes by the data lane, drawn by chance.
  void framesByLane(double share);
  // The lane breaks, the process lives.
  void breakLane(std::size_t node, std::size_t peer);

  // What becomes of each data message: how many times it arrives (0: lost), after `change` had its
  // way with a copy of the bytes. Runs under the network's lock.
  struct Message {
    std::size_t from;
    std::size_t to;
    std::vector<std::byte>& header;
    std::vector<std::byte>& payload;
  };
  void onData(std::function<int(Message)> filter);
  // Bytes from nowhere, as if `from` had sent them; a frame, as if it had nothing to wait for.
  void inject(std::size_t from, std::size_t to, std::vector<std::byte> header,
              std::vector<std::byte> payload);
  void injectControl(std::size_t from, std::size_t to, std::vector<std::byte> frame);
  // The next progress() of the node throws.
  void throwInProgress(std::size_t node);
  // The node's descriptor says ready for ever.
  void cryWolf(std::size_t node, bool on = true);
  // The lane refuses to arm, as UCX does while endpoints close.
  void refuseArm(std::size_t node, bool on = true);
  // The next engine cannot open its lane.
  void failNextOpen(const std::string& why);

  // Messages accepted for sending and not completed, of all nodes that live.
  std::size_t inFlight() const;
  std::uint64_t waits(std::size_t node) const;  // how often its thread went to sleep

 private:
  friend class FakeTransport;
  friend class FakeControl;
  struct Held {
    std::size_t from;
    std::size_t to;
    std::span<const std::byte> header;
    std::span<const std::byte> payload;
    SendToken token;
  };

  FakeNode& nodeOf(ProcessId process);
  bool passes(const Held& message) const;
  void deliver(const Held& message);
  void flush();
  void flushControl();
  void peerGone(FakeNode& node, std::size_t gone, DownCause cause, const std::string& detail);
  void meet(FakeNode& a, FakeNode& b);

  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<FakeNode>> nodes_;
  std::deque<Held> held_;
  struct HeldFrame {
    std::size_t from;
    std::size_t to;
    std::vector<std::byte> frame;
  };
  std::deque<HeldFrame> held_frames_;
  double lane_share_ = 0;
  std::minstd_rand chance_{1};
  std::set<std::pair<std::size_t, std::size_t>> stalled_;
  std::set<std::pair<std::size_t, std::size_t>> held_control_;
  std::function<int(Message)> filter_;
  std::string fail_open_;
};

}  // namespace papilio::engine::testing
