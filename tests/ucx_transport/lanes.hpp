// Transports inside one process, pumped by the test's thread, and one in a child process.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/time.hpp"
#include "engine/transport.hpp"
#include "lane_tools.hpp"
#include "ucx_transport/ucx_transport.hpp"

namespace papilio::ucx::testing {

using engine::PeerId;
using engine::SendToken;
using Bytes = std::vector<std::byte>;
using papilio::testing::pattern;

inline constexpr std::chrono::seconds kPatience{30};  // a failing wait ends here

struct Recorder final : engine::TransportObserver {
  struct Message {
    PeerId from;
    Bytes header;
    Bytes payload;
  };
  std::vector<Message> messages;
  bool keep = true;  // else only counted
  std::uint64_t received = 0;
  std::map<SendToken, int> done;  // how often
  std::size_t finished = 0;
  std::map<SendToken, bool> delivered;
  std::vector<std::pair<PeerId, std::string>> errors;
  std::function<void()> on_message;

  void onMessage(PeerId from, std::span<const std::byte> header,
                 std::span<const std::byte> payload) override;
  void onLaneFrame(PeerId, std::span<const std::byte>) override {}
  void onSendDone(SendToken token, bool ok) override;
  void onPeerError(PeerId peer, const std::string& why) override;
};

// A transport with its observer. Buffers of sends live until the lane is gone.
struct Lane {
  explicit Lane(std::uint64_t process);

  Recorder seen;
  ProcessId process;
  std::unique_ptr<engine::Transport> transport;

  void connect(std::uint32_t peer, const Lane& other) {
    transport->connect(PeerId{peer}, other.process, other.transport->localAddress());
  }
  bool send(std::uint32_t peer, Bytes header, Bytes payload, SendToken token);
  std::size_t open() const;  // sends accepted and not done

 private:
  std::map<SendToken, std::pair<Bytes, Bytes>> buffers_;
  std::size_t accepted_ = 0;
};

std::size_t openDescriptors();

// As pumpLanes(); takes lanes in braces.
inline bool pump(const std::vector<Lane*>& lanes, const std::function<bool()>& done,
                 std::chrono::milliseconds limit = kPatience) {
  return papilio::testing::pumpLanes(lanes, done, limit);
}

// A process with a lane of its own: connects to the parent's address as process 2 and sends it
// payloads of 256 KiB without end, receiving whatever comes. The program starts anew (exec), as
// UCX does not survive a fork.
class Child {
 public:
  explicit Child(const Lane& parent);
  ~Child();
  void kill(int signal);
  const Bytes& address() const { return address_; }
  static constexpr std::uint64_t kProcess = 2;
  // The child's program; never returns when the command line asks for it.
  static void runIfAsked(int argc, char** argv);

 private:
  pid_t pid_ = -1;
  Bytes address_;
};

}  // namespace papilio::ucx::testing
