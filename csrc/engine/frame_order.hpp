// Control messages of one peer process take two ways, the control connection and, within a host,
// the data lane. Each way keeps its order; this restores the order across both: a frame begins with
// the number of frames that its sender had put on the other way before, and waits for those.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <vector>

namespace papilio::engine {

enum class Way : std::uint8_t { connection, lane };

class FrameOrder {
 public:
  // Frames of one way that may wait for the other way.
  static constexpr std::size_t kMostWaiting = 1024;
  static constexpr std::int32_t kMostMissing = 1 << 20;  // of the other way; more is garbage
  static constexpr std::size_t kPrefixBytes = sizeof(std::uint32_t);

  // The frame for `message` if it takes that way; call sent() when it was taken.
  std::vector<std::byte> frame(std::span<const std::byte> message, Way way) const;
  void sent(Way way) { ++sent_[index(way)]; }

  using Deliver = std::function<void(std::span<const std::byte> message)>;
  enum class Taken : std::uint8_t { yes, malformed, too_many };
  // A frame has come that way: delivers whatever it is the turn of. Anything but `yes`: the frame
  // was not taken, and nothing was delivered.
  Taken take(std::span<const std::byte> frame, Way way, const Deliver& deliver);
  bool full(Way way) const { return waiting_[index(way)].size() == kMostWaiting; }

 private:
  struct Waiting {
    std::uint32_t others = 0;
    std::vector<std::byte> message;
  };
  static constexpr std::size_t index(Way way) { return static_cast<std::size_t>(way); }
  static constexpr std::size_t other(std::size_t way) { return 1 - way; }
  // Frames of the other way that have to be delivered before; not positive: none.
  std::int32_t missing(std::uint32_t others, std::size_t way) const;
  bool deliverOne(std::size_t way, const Deliver& deliver);

  // By way. Counters wrap around.
  std::array<std::uint32_t, 2> sent_{};
  std::array<std::uint32_t, 2> delivered_{};
  std::array<std::deque<Waiting>, 2> waiting_;
};

}  // namespace papilio::engine
