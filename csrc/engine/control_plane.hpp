// Liveness and small messages: one authenticated connection per pair of processes, and the one
// place where the progress thread sleeps. Implemented by the control room (and a fake in tests).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/ids.hpp"
#include "core/time.hpp"
#include "engine/transport.hpp"
#include "engine/wheel.hpp"

namespace papilio::engine {

// What a process tells a peer about itself, inside the authenticated handshake.
struct PeerHello {
  ProcessId process;
  Incarnation incarnation;
  std::string host;     // for people
  std::string host_id;  // equal for processes that share a kernel and a pid namespace
  std::uint32_t pid = 0;
  std::string address;                  // "10.0.0.3:41532" of its control listener
  std::string versions;                 // "papilio 0.1.0 ucx 1.22.0"
  std::vector<std::byte> data_address;  // Transport::localAddress()
};

// Why a peer is gone. Everything but `bye` is hard evidence of a death or of a broken path.
enum class DownCause : std::uint8_t {
  bye,
  process_exit,
  connection_closed,
  connection_reset,
  unreachable,
  rejected
};
const char* name(DownCause cause);

struct ControlObserver {
  virtual ~ControlObserver() = default;
  // Handshake finished; frames may be sent. Once per peer.
  virtual void onPeerUp(PeerId peer, const PeerHello& hello) = 0;
  // Once per peer, also when it never came up; `detail` for people ("exit seen by pidfd").
  virtual void onPeerDown(PeerId peer, DownCause cause, const std::string& detail) = 0;
  // One frame, valid during the call.
  virtual void onFrame(PeerId peer, std::span<const std::byte> frame) = 0;
  // A ping was answered: round-trip time. Also proof of life of the peer's progress thread.
  virtual void onPong(PeerId peer, Duration rtt) = 0;
};

// Counters of what strangers and broken peers did; monotonic.
struct ControlCounters {
  std::uint64_t rejected_garbage = 0;
  std::uint64_t rejected_secret = 0;
  std::uint64_t rejected_timeout = 0;  // half a handshake
  std::uint64_t rejected_duplicate = 0;
  std::uint64_t frames_dropped = 0;  // to a peer whose queue was full
};

class ControlPlane {
 public:
  virtual ~ControlPlane() = default;

  // "host:port process-id" record that peers dial; goes into the store.
  virtual std::string localRecord() const = 0;
  // Starts to bring up the connection to the process behind `record` (its localRecord()). Both
  // sides call it; the lower process id dials, the other side waits for the call. A peer that is
  // not up `limit` (real time) later goes down with `unreachable`. Throws std::invalid_argument for
  // a record that is none.
  virtual void connect(PeerId peer, const std::string& record, Duration limit) = 0;
  // Queues one frame (<= kMaxControlBytes). False: peer not up, or its queue is full (a frozen
  // peer must not make memory grow).
  virtual bool send(PeerId peer, std::span<const std::byte> frame) = 0;
  // Asks for an onPong; at most one outstanding per peer, further calls are ignored.
  virtual void ping(PeerId peer) = 0;
  // Says goodbye to everybody, flushes at most `limit_ms`, closes everything.
  virtual void shutdown(std::uint32_t limit_ms) = 0;

  // Also wake when this fd is readable (the transport's). Once, before the first wait.
  virtual void watch(int fd) = 0;
  // Handles what is ready; sleeps up to `max` if nothing is, and lets go of the wheel meanwhile.
  // Zero: poll only. What is reported is reported with the wheel in hand.
  virtual void wait(Duration max) = 0;
  // Like wait(), but the watched fd does not end it: for a descriptor that cries wolf.
  virtual void nap(Duration max) = 0;
  // A process of this host has ended, and wait() has not said so yet. Asked with the wheel in hand.
  virtual bool endsUnheard() { return false; }
  // Ends a wait() or nap() from any thread. Signal-safe it need not be.
  virtual void wake() = 0;

  virtual ControlCounters counters() const = 0;
};

}  // namespace papilio::engine
