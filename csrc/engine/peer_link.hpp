// What the engine knows of one peer process, and what of ours is on its way there.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/ids.hpp"
#include "engine/control_plane.hpp"
#include "engine/frame_order.hpp"
#include "engine/group_runtime.hpp"
#include "engine/transport.hpp"
#include "fault/report.hpp"

namespace papilio::engine {

// Bytes per second over the times when something was arriving.
class GoodputMeter {
 public:
  void received(Time now, std::uint64_t bytes) {
    const Duration since = now - last_;
    last_ = now;
    if (since < kIdle) busy_ += since;
    bytes_ += static_cast<double>(bytes);
    if (busy_ > kMemory) {  // forget half: a moving average
      busy_ /= 2;
      bytes_ /= 2;
    }
  }
  double bytesPerSecond() const { return busy_ < kLeast ? 0.0 : bytes_ / toSeconds(busy_); }

 private:
  static constexpr Duration kIdle = 20ms;
  static constexpr Duration kMemory = 2s;
  static constexpr Duration kLeast = 1ms;
  Time last_{};
  Duration busy_{};
  double bytes_ = 0;
};

struct PeerLink {
  enum class State : std::uint8_t { connecting, up, down };

  PeerId id;
  std::string record;
  State state = State::connecting;
  bool said_goodbye = false;
  bool lane_open = false;
  bool dirty = false;    // a group may have something to send
  bool starved = false;  // waits for staging memory
  fault::Reason down_reason = fault::Reason::none;
  std::string down_detail;
  PeerHello hello;
  Duration rtt{};
  Time last_seen{};
  GoodputMeter goodput;
  FrameOrder frames;
  std::uint32_t in_flight = 0;
  std::uint64_t in_flight_bytes = 0;
  std::size_t next_group = 0;     // round robin
  std::uint32_t early_joins = 0;  // for groups that do not exist here yet
  std::vector<std::pair<GroupRuntime*, Rank>> groups;
};

}  // namespace papilio::engine
