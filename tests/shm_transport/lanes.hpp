// Shared memory lanes for tests: in this process, and in a child that can be killed or stopped.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/transport.hpp"
#include "lane_tools.hpp"
#include "shm_transport/shm_transport.hpp"

namespace papilio::shm::testing {

using engine::PeerId;
using engine::SendToken;
using Bytes = std::vector<std::byte>;
using papilio::testing::pattern;

struct Message {
  PeerId from;
  Bytes header;
  Bytes payload;
};

// What a lane reports. `on_message` sees the payload where it lies.
struct Recorder : engine::TransportObserver {
  std::vector<Message> messages;
  std::vector<Message> frames;                  // without payload
  std::map<SendToken, std::vector<bool>> done;  // delivered?, once per send
  std::vector<std::pair<PeerId, std::string>> errors;
  std::uint64_t received = 0;
  bool keep = true;
  std::function<void(std::span<const std::byte> payload)> on_message;

  void onMessage(PeerId from, std::span<const std::byte> header,
                 std::span<const std::byte> payload) override;
  void onLaneFrame(PeerId from, std::span<const std::byte> frame) override {
    frames.push_back({from, {frame.begin(), frame.end()}, {}});
  }
  void onSendDone(SendToken token, bool delivered) override;
  void onPeerError(PeerId peer, const std::string& why) override;
};

// The lane behind: takes everything at once and remembers how much.
class OtherLane final : public engine::Transport {
 public:
  explicit OtherLane(engine::TransportObserver& observer);
  ~OtherLane() override;

  std::vector<std::byte> localAddress() const override { return Bytes(10, std::byte{7}); }
  void connect(PeerId peer, ProcessId, std::span<const std::byte> address) override;
  void disconnect(PeerId peer, bool) override { connected.erase(peer); }
  bool send(PeerId peer, std::span<const std::byte> header, std::span<const std::byte> payload,
            SendToken token) override;
  std::uint32_t progress() override;
  int eventFd() const override { return fd_; }
  bool arm() override;
  std::string laneName(PeerId) const override { return "other"; }
  bool shutdown(std::uint32_t) override { return true; }

  // Something arrives for it: its descriptor becomes readable until it is progressed.
  void stir();

  std::map<PeerId, Bytes> connected;
  std::uint64_t sent = 0;
  std::uint64_t progressed = 0;  // calls
  std::uint64_t stirred = 0;     // handled

 private:
  engine::TransportObserver& observer_;
  int fd_;
};

struct Lane {
  explicit Lane(std::uint64_t id, Use use = Use::near, std::string host = "here");

  ProcessId process;
  Recorder seen;
  OtherLane* other = nullptr;
  std::unique_ptr<engine::Transport> transport;
  std::vector<std::string> log;

  void connect(std::uint32_t peer, const Lane& lane) {
    transport->connect(PeerId{peer}, lane.process, lane.transport->localAddress());
  }
  // Stages `payload` in the arena and sends it; the memory is free again when it is done.
  bool send(std::uint32_t peer, const Bytes& header, const Bytes& payload, SendToken token);
  std::size_t open() const { return staged_.size(); }

 private:
  struct Staged {
    Bytes header;
    std::byte* data = nullptr;
    std::uint32_t bytes = 0;
  };
  void collect();
  std::map<SendToken, Staged> staged_;
  std::deque<Bytes> heap_;
};

// As pumpLanes(); takes lanes in braces.
inline bool pump(const std::vector<Lane*>& lanes, const std::function<bool()>& done,
                 std::chrono::milliseconds limit = papilio::testing::kLimit) {
  return papilio::testing::pumpLanes(lanes, done, limit);
}

// A process with a lane of its own that sends `kPayload` bytes to the parent (its peer 0) again and
// again, or only receives.
class Child {
 public:
  static constexpr std::uint64_t kProcess = 2;
  static constexpr std::size_t kPayload = 256 * 1024;
  enum class Role { sender, receiver };

  Child(const Lane& parent, Role role);
  ~Child();

  const Bytes& address() const { return address_; }
  pid_t pid() const { return pid_; }
  void kill(int signal);
  // Kills it and waits until it is gone.
  void end();

 private:
  pid_t pid_ = -1;
  Bytes address_;
};

}  // namespace papilio::shm::testing
