// Inside of the fake network: one process's mailbox, and the two lanes that read it.
#pragma once

#include "engine/fake_network.hpp"

namespace papilio::engine::testing {

// What waits for a node's progress thread; guarded by the network's mutex.
struct FakeNode {
  std::size_t index = 0;
  ProcessId process;
  PeerHello hello;
  std::condition_variable changed;
  std::deque<std::function<void(TransportObserver&)>> data;
  std::deque<std::function<void(ControlObserver&)>> control;
  std::map<std::size_t, PeerId> peers;  // node index to the id it has here
  std::map<PeerId, std::string> asked;  // connect() was called for that record
  std::set<std::size_t> up;
  std::set<std::size_t> closed;  // lanes to those nodes are shut
  bool dead = false;
  bool frozen = false;
  bool woken = false;
  bool wolf = false;
  bool refuses_arm = false;
  bool throws = false;
  bool gone = false;                                 // shut down in good order
  std::shared_ptr<std::vector<std::byte>> reported;  // the payload that is being handled
  std::size_t in_flight = 0;
  std::uint64_t waits = 0;

  std::string record() const { return "fake " + std::to_string(process.value); }
};

class FakeTransport final : public Transport {
 public:
  FakeTransport(FakeNetwork& network, TransportObserver& observer, ProcessId self);
  std::vector<std::byte> localAddress() const override { return {std::byte{1}}; }
  void connect(PeerId, ProcessId, std::span<const std::byte>) override {}
  void disconnect(PeerId peer, bool process_is_dead) override;
  bool send(PeerId peer, std::span<const std::byte> header, std::span<const std::byte> payload,
            SendToken token) override;
  bool sendFrame(PeerId peer, std::span<const std::byte> frame) override;
  // Poisons the payload when it is let go.
  std::shared_ptr<const void> hold(std::span<const std::byte> payload) override;
  std::uint32_t progress() override;
  int eventFd() const override { return -1; }
  bool arm() override;
  std::string laneName(PeerId) const override { return "fake"; }
  bool shutdown(std::uint32_t limit_ms) override;

 private:
  std::optional<std::size_t> nodeBehind(PeerId peer) const;
  FakeNetwork& network_;
  TransportObserver& observer_;
  std::shared_ptr<FakeNode> node_;
};

class FakeControl final : public ControlPlane {
 public:
  FakeControl(FakeNetwork& network, ControlObserver& observer, PeerHello self, Wheel& wheel);
  std::string localRecord() const override { return node_->record(); }
  void connect(PeerId peer, const std::string& record, Duration limit) override;
  bool send(PeerId peer, std::span<const std::byte> frame) override;
  // Answered by the other's thread, unless that stands still.
  void ping(PeerId peer) override;
  void shutdown(std::uint32_t limit_ms) override;
  void watch(int) override {}
  void wait(Duration max) override { sleep(max, true); }
  void nap(Duration max) override { sleep(max, false); }
  void wake() override;
  ControlCounters counters() const override { return {}; }

 private:
  void sleep(Duration max, bool with_data);
  FakeNetwork& network_;
  ControlObserver& observer_;
  Wheel& wheel_;
  std::shared_ptr<FakeNode> node_;
};

}  // namespace papilio::engine::testing
