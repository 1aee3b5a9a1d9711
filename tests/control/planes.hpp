// Control planes inside one process, pumped by the test's own thread, and strangers on raw sockets.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "control/connection.hpp"
#include "control/control_plane.hpp"
#include "control/handshake.hpp"
#include "engine/control_plane.hpp"

namespace papilio::control::testing {

using engine::ControlPlane;
using engine::DownCause;
using engine::PeerHello;
using engine::PeerId;

inline constexpr std::chrono::seconds kPatience{20};  // a failing wait ends here

struct Recorder final : engine::ControlObserver {
  struct Down {
    PeerId peer;
    DownCause cause;
    std::string detail;
  };
  std::vector<std::pair<PeerId, PeerHello>> ups;
  std::vector<Down> downs;
  std::vector<std::vector<std::byte>> frames;
  std::vector<Duration> pongs;
  std::function<void()> on_up;

  void onPeerUp(PeerId peer, const PeerHello& hello) override;
  void onPeerDown(PeerId peer, DownCause cause, const std::string& detail) override;
  void onFrame(PeerId peer, std::span<const std::byte> frame) override;
  void onPong(PeerId peer, Duration rtt) override;
};

std::vector<std::byte> bytesOf(const std::string& text);

// A plane with its observer. `process` decides who dials: the lower number.
struct Plane {
  explicit Plane(std::uint64_t process, const std::string& secret = "job secret",
                 std::function<void(Config&)> change = {});

  Recorder seen;
  std::vector<std::string> log;
  engine::Wheel wheel;
  std::unique_ptr<ControlPlane> plane;

  std::string record() const { return plane->localRecord(); }
  std::uint16_t port() const;
  void connect(std::uint32_t peer, const Plane& other, Duration limit = kPatience) {
    plane->connect(PeerId{peer}, other.record(), limit);
  }
  void wait(Duration limit);
  void nap(Duration limit);
  bool send(std::uint32_t peer, const std::string& text) {
    return plane->send(PeerId{peer}, bytesOf(text));
  }
};

// Lets the planes work in turn until `done`; false after `limit`.
bool pump(const std::vector<Plane*>& planes, const std::function<bool()>& done,
          std::chrono::milliseconds limit = kPatience);
// Both sides up, known to each other as peer 0.
void join(Plane& a, Plane& b);

// A TCP client that is none of us; sends what it likes.
class Stranger {
 public:
  explicit Stranger(std::uint16_t port);
  Stranger(Stranger&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ~Stranger();

  void send(std::span<const std::byte> bytes);
  void send(Kind kind, std::span<const std::byte> body);
  // Body of the next frame of this kind, once all its bytes are here.
  std::optional<std::vector<std::byte>> take(Kind kind);
  // The other side ended the connection.
  bool closed();

 private:
  void receive();
  int fd_ = -1;
  bool ended_ = false;
  std::vector<std::byte> input_;
};

std::size_t openDescriptors();

}  // namespace papilio::control::testing
