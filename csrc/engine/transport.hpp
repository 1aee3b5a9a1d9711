// The data lane as the engine needs it. Implemented by ucx_transport, and by a fake in the tests.
// One thread at a time calls it: the one that holds the wheel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/ids.hpp"

namespace papilio::engine {

// Index of a peer process inside this engine; given by the engine, dense from 0, never reused.
using PeerId = StrongId<struct PeerIdTag, std::uint32_t>;
inline constexpr PeerId kNoPeer{0xffffffff};  // of a slot without a process
// Opaque to the transport; handed back when the send's memory is free again.
using SendToken = std::uint64_t;

// Memory that a lane can send from without a copy; the engine stages in it.
class Arena {
 public:
  virtual ~Arena() = default;
  // nullptr when there is none left: other memory will do, it is only slower.
  virtual std::byte* take(std::uint32_t bytes) = 0;
  // Its pages go back to the system; `bytes` as in take().
  virtual void giveBack(std::byte* data, std::uint32_t bytes) = 0;
};

struct TransportObserver {
  virtual ~TransportObserver() = default;
  // A whole message. Both spans are valid only during the call. May call Transport::send().
  virtual void onMessage(PeerId from, std::span<const std::byte> header,
                         std::span<const std::byte> payload) = 0;
  // What a peer gave to sendFrame(); valid during the call.
  virtual void onLaneFrame(PeerId from, std::span<const std::byte> frame) = 0;
  // Header and payload memory of that send are free. Runs exactly once for each accepted send,
  // whatever happens to the peer. `delivered`: false when it failed or was cancelled.
  virtual void onSendDone(SendToken token, bool delivered) = 0;
  // The lane to that peer is broken for good (once per peer); later sends are refused.
  virtual void onPeerError(PeerId peer, const std::string& why) = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;

  // What a peer needs to reach this process; travels over the control connection only.
  virtual std::vector<std::byte> localAddress() const = 0;
  // Opens the lane to a peer process. Never blocks; errors come by onPeerError.
  virtual void connect(PeerId peer, ProcessId process, std::span<const std::byte> address) = 0;
  // Stops posting to the peer. With `process_is_dead` its pending sends are also torn down (their
  // onSendDone runs soon); a live peer's endpoint is kept (ucx 12.1 A).
  virtual void disconnect(PeerId peer, bool process_is_dead) = 0;
  // Hands over one message. `header` and `payload` stay valid until onSendDone(token). May run
  // onSendDone inside. False: refused (no lane), onSendDone will not run.
  virtual bool send(PeerId peer, std::span<const std::byte> header,
                    std::span<const std::byte> payload, SendToken token) = 0;
  // Sends a control message, of which nothing needs to stay valid, where that is faster than a
  // connection. False: not this way. Frames to one peer arrive in order, or that lane breaks.
  virtual bool sendFrame(PeerId, std::span<const std::byte>) { return false; }
  // Inside onMessage(), for its payload: it stays readable, and the sender's memory in use, until
  // what is returned is gone. Null: copy it.
  virtual std::shared_ptr<const void> hold(std::span<const std::byte>) { return nullptr; }
  // Bytes that are worth having on their way to that peer: two chunks, so that they are still in
  // the cache when the kernel copies them. It queues more on its own.
  virtual std::uint64_t window(PeerId) const { return 512ULL << 10; }
  // Runs what is ready, bounded; returns how many events it handled.
  virtual std::uint32_t progress() = 0;
  // Readable when progress() has work. Constant for the transport's life.
  virtual int eventFd() const = 0;
  // True: nothing is ready and eventFd() will become readable for the next event.
  virtual bool arm() = 0;
  // arm() for a thread that drives in place of the progress thread: what comes from this host makes
  // waiterFd() readable instead. -1: there is none, everything shows at eventFd().
  virtual bool armWaiter() { return arm(); }
  virtual int waiterFd() const { return -1; }
  // "ucx tcp/lo" once known; for peers() and logs.
  virtual std::string laneName(PeerId peer) const = 0;
  // Where to stage what this lane is to send; nullptr for any memory. Lives as long as the lane.
  virtual Arena* arena() { return nullptr; }
  // Adds its counters by name ("bytes.ucx.sent").
  virtual void addStats(std::map<std::string, double>& out) const { static_cast<void>(out); }
  // Cancels everything and progresses until all onSendDone have run or `limit` passed (real time).
  // Returns whether everything was drained. Afterwards only the destructor may be called.
  virtual bool shutdown(std::uint32_t limit_ms) = 0;
};

}  // namespace papilio::engine
