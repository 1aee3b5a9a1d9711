// The control plane: listens, dials, authenticates, keeps one connection per peer process, watches
// same-host processes by pidfd.
#pragma once

#include <poll.h>

#include <asio.hpp>

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "control/connection.hpp"
#include "control/control_plane.hpp"
#include "control/handshake.hpp"

namespace papilio::control {

using engine::DownCause;
using engine::PeerHello;
using engine::PeerId;

class AsioControlPlane final : public engine::ControlPlane {
 public:
  AsioControlPlane(Config config, engine::ControlObserver& observer, engine::Wheel& wheel);
  ~AsioControlPlane() override;

  std::string localRecord() const override;
  void connect(PeerId peer, const std::string& record, Duration limit) override;
  bool send(PeerId peer, std::span<const std::byte> frame) override;
  void ping(PeerId peer) override;
  void shutdown(std::uint32_t limit_ms) override;
  void watch(int fd) override;
  void wait(Duration max) override;
  void nap(Duration max) override;
  void wake() override;
  bool endsUnheard() override;
  engine::ControlCounters counters() const override { return counters_; }

 private:
  using ConnectionPtr = std::shared_ptr<Connection>;
  using Timer = asio::steady_timer;

  // A connection before it belongs to a peer. Handlers know it by number: one that is already due
  // when the connection goes away finds nothing.
  using PendingId = std::uint64_t;
  struct Pending {
    PendingId id;
    ConnectionPtr connection;
    Timer timer;
    Role role;                     // of this side
    std::optional<PeerId> dialed;  // the peer this side called
    Nonce nonce{};
    Session session{};
    bool greeted = false;
    bool authenticated = false;  // parked: waits for connect()
    PeerHello hello;
  };

  struct Peer {
    enum class State : std::uint8_t { connecting, up, down };
    PeerId id;
    ProcessId process;
    asio::ip::tcp::endpoint endpoint;
    State state = State::connecting;
    ConnectionPtr connection;
    PeerHello hello;
    Timer limit;
    Timer retry;  // back-off of the dialer; later the grace for a pidfd after an end of file
    Duration backoff{};
    std::string last_error = "no answer yet";
    std::optional<asio::posix::stream_descriptor> pidfd;
    bool ping_outstanding = false;
    Peer(PeerId peer_id, asio::io_context& io) : id(peer_id), limit(io), retry(io) {}
  };

  // asio_control_plane.cpp
  void runReady();
  void sleep(Duration max);
  void accept();
  void dial(Peer& peer);
  void redial(Peer& peer, const std::string& why);
  void adopt(Peer& peer, ConnectionPtr connection, PeerHello hello);
  void onPeerFrame(Peer& peer, Kind kind, std::span<const std::byte> body);
  void onPeerEnd(Peer& peer, std::error_code error, bool broken_rules);
  void watchProcess(Peer& peer);
  void down(Peer& peer, DownCause cause, const std::string& detail);
  Peer* byProcess(ProcessId process);
  // pending.cpp
  void begin(ConnectionPtr connection, Role role, std::optional<PeerId> dialed);
  void expireAt(Pending& pending, Duration limit, const char* why);
  void onPendingFrame(Pending& pending, Kind kind, std::span<const std::byte> body);
  void gotGreeting(Pending& pending, std::span<const std::byte> body);
  void gotHello(Pending& pending, std::span<const std::byte> body);
  void park(Pending& pending);
  void takeParked(Peer& peer);
  // Ends it; `pending` is gone afterwards.
  void reject(Pending& pending, std::uint64_t& counter, const std::string& why);
  Pending* find(PendingId id);
  Pending* parked(ProcessId process);
  bool makeRoom();
  void note(const std::string& line) const {
    if (config_.log) config_.log(line);
  }

  // Strangers hold at most so many descriptors; a silent one gives way to the next caller.
  static constexpr std::size_t kMaxPending = 64;
  static constexpr std::size_t kMaxParked = 1024;
  static constexpr int kReadyBatch = 256;
  static constexpr Duration kFirstBackoff = 50ms;
  static constexpr Duration kMaxBackoff = 500ms;
  static constexpr Duration kPidfdGrace = 20ms;

  Config config_;
  engine::ControlObserver& observer_;
  engine::Wheel& wheel_;
  engine::ControlCounters counters_;
  asio::io_context io_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  asio::ip::tcp::acceptor acceptor_;
  Timer accept_retry_;
  std::optional<asio::posix::stream_descriptor> watched_;
  bool watching_ = false;
  std::map<PendingId, Pending> pending_;  // oldest first
  PendingId last_pending_ = 0;
  bool accept_failing_ = false;
  std::map<PeerId, Peer> peers_;
  std::vector<pollfd> processes_;  // of endsUnheard()
  std::atomic<bool> woken_{false};
  bool closing_ = false;
};

}  // namespace papilio::control
