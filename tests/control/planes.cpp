#include "control/planes.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "control/record.hpp"

namespace papilio::control::testing {

void Recorder::onPeerUp(PeerId peer, const PeerHello& hello) {
  ups.emplace_back(peer, hello);
  if (on_up) on_up();
}
void Recorder::onPeerDown(PeerId peer, DownCause cause, const std::string& detail) {
  downs.push_back({peer, cause, detail});
}
void Recorder::onFrame(PeerId, std::span<const std::byte> frame) {
  frames.emplace_back(frame.begin(), frame.end());
}
void Recorder::onPong(PeerId, Duration rtt) { pongs.push_back(rtt); }

std::vector<std::byte> bytesOf(const std::string& text) {
  const auto view = std::as_bytes(std::span(text));
  return {view.begin(), view.end()};
}

Plane::Plane(std::uint64_t process, const std::string& secret,
             std::function<void(Config&)> change) {
  Config config;
  config.self.process = ProcessId{process};
  config.self.incarnation = Incarnation{static_cast<std::uint32_t>(process + 1000)};
  config.self.host = "here";
  config.self.versions = "papilio test";
  config.self.data_address = bytesOf("lane of " + std::to_string(process));
  config.listen_address = "127.0.0.1";
  config.secret = bytesOf(secret);
  config.log = [this](const std::string& line) { log.push_back(line); };
  if (change) change(config);
  plane = makeControlPlane(std::move(config), seen, wheel);
}

void Plane::wait(Duration limit) {
  const std::lock_guard held(wheel);
  plane->wait(limit);
}

void Plane::nap(Duration limit) {
  const std::lock_guard held(wheel);
  plane->nap(limit);
}

std::uint16_t Plane::port() const { return parseRecord(record()).endpoint.port(); }

bool pump(const std::vector<Plane*>& planes, const std::function<bool()>& done,
          std::chrono::milliseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!done()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    for (auto* each : planes) each->wait(200us);
  }
  return true;
}

void join(Plane& a, Plane& b) {
  a.connect(0, b);
  b.connect(0, a);
  ASSERT_TRUE(pump({&a, &b}, [&] { return a.seen.ups.size() == 1 && b.seen.ups.size() == 1; }));
}

Stranger::Stranger(std::uint16_t port) {
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd_ < 0 || connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    throw std::runtime_error("a stranger can not connect");
  }
}

Stranger::~Stranger() {
  if (fd_ >= 0) close(fd_);
}

void Stranger::send(std::span<const std::byte> bytes) {
  // Ignoring failures: the other side may have hung up, which the tests see by closed().
  static_cast<void>(::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
}

void Stranger::send(Kind kind, std::span<const std::byte> body) {
  const auto length = static_cast<std::uint32_t>(body.size());
  std::vector<std::byte> frame(5 + body.size());
  std::memcpy(frame.data(), &length, sizeof length);
  frame[4] = static_cast<std::byte>(kind);
  if (!body.empty()) std::memcpy(frame.data() + 5, body.data(), body.size());
  send(frame);
}

void Stranger::receive() {
  std::byte buffer[4096];
  while (!ended_) {
    const auto size = recv(fd_, buffer, sizeof buffer, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0) {
      ended_ = true;
    } else {
      input_.insert(input_.end(), buffer, buffer + size);
    }
  }
}

std::optional<std::vector<std::byte>> Stranger::take(Kind kind) {
  receive();
  while (input_.size() >= 5) {
    std::uint32_t length;
    std::memcpy(&length, input_.data(), sizeof length);
    if (input_.size() < 5 + length) return std::nullopt;
    const auto got = static_cast<Kind>(input_[4]);
    std::vector<std::byte> body(input_.begin() + 5, input_.begin() + 5 + length);
    input_.erase(input_.begin(), input_.begin() + 5 + length);
    if (got == kind) return body;
  }
  return std::nullopt;
}

bool Stranger::closed() {
  receive();
  return ended_;
}

std::size_t openDescriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

}  // namespace papilio::control::testing
