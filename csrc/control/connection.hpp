// One framed TCP connection. Reads whole frames, queues writes within a limit, reports its end
// once. Everything happens with the wheel in hand.
#pragma once

#include <asio.hpp>

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/control_plane.hpp"

namespace papilio::control {

enum class Kind : std::uint8_t { greeting = 1, hello, data, ping, pong, bye };
inline constexpr std::uint8_t kKindLast = 6;

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  using Socket = asio::ip::tcp::socket;
  using FrameFn = std::function<void(Kind, std::span<const std::byte>)>;
  // `broken_rules`: the peer sent something that no frame can be.
  using EndFn = std::function<void(std::error_code error, bool broken_rules)>;

  Connection(Socket socket, engine::Wheel& wheel);

  // Starts reading. Neither function runs after close().
  void start(FrameFn on_frame, EndFn on_end);
  // Both may be replaced when the connection changes hands (handshake, parked, up).
  void handOver(FrameFn on_frame, EndFn on_end);
  // False: the queue is full or the connection has ended.
  bool send(Kind kind, std::span<const std::byte> body);
  // Frames may grow to this size from now on (64 KiB during the handshake).
  void limitFrames(std::size_t bytes) { max_frame_ = bytes; }
  // No frame is handed out, and nothing is read, until resume(): what the other side sends
  // meanwhile waits in the kernel, which bounds it.
  void hold() { held_ = true; }
  void resume();
  // Handles what has already arrived, without waiting.
  void drain();
  void close();
  bool flushed() const { return queue_.empty() && !writing_; }
  bool open() const { return open_; }
  Socket& socket() { return socket_; }

 private:
  static constexpr std::size_t kQueueLimit = 1 << 20;
  static constexpr std::size_t kPrefix = 5;  // u32 length of the body, u8 kind

  void read();
  void consume();
  void write();
  void end(std::error_code error, bool broken_rules);

  Socket socket_;
  engine::Wheel& wheel_;
  FrameFn on_frame_;
  EndFn on_end_;
  std::size_t max_frame_ = 64 * 1024;
  std::vector<std::byte> input_;
  std::array<std::byte, 16 * 1024> chunk_;
  std::vector<std::byte> queue_;  // waits while a write is under way
  std::vector<std::byte> outgoing_;
  bool writing_ = false;
  bool open_ = true;
  bool consuming_ = false;
  bool reading_ = false;
  bool held_ = false;
};

}  // namespace papilio::control
