#include "engine/frame_order.hpp"

#include <cstring>
#include <utility>

namespace papilio::engine {

std::vector<std::byte> FrameOrder::frame(std::span<const std::byte> message, Way way) const {
  std::vector<std::byte> out(kPrefixBytes + message.size());
  const std::uint32_t others = sent_[other(index(way))];
  std::memcpy(out.data(), &others, kPrefixBytes);
  std::memcpy(out.data() + kPrefixBytes, message.data(), message.size());
  return out;
}

std::int32_t FrameOrder::missing(std::uint32_t others, std::size_t way) const {
  return static_cast<std::int32_t>(others - delivered_[other(way)]);
}

bool FrameOrder::deliverOne(std::size_t way, const Deliver& deliver) {
  auto& waiting = waiting_[way];
  if (waiting.empty() || missing(waiting.front().others, way) > 0) return false;
  const Waiting first = std::move(waiting.front());
  waiting.pop_front();
  ++delivered_[way];
  deliver(first.message);
  return true;
}

FrameOrder::Taken FrameOrder::take(std::span<const std::byte> frame, Way way,
                                   const Deliver& deliver) {
  if (frame.size() < kPrefixBytes) return Taken::malformed;
  std::uint32_t others;
  std::memcpy(&others, frame.data(), kPrefixBytes);
  const auto message = frame.subspan(kPrefixBytes);
  const std::size_t mine = index(way);
  const auto missed = missing(others, mine);
  if (missed > kMostMissing) return Taken::malformed;
  if (waiting_[mine].empty() && missed <= 0) {
    ++delivered_[mine];
    deliver(message);
  } else {
    if (waiting_[mine].size() == kMostWaiting) return Taken::too_many;
    waiting_[mine].push_back({others, {message.begin(), message.end()}});
  }
  while (deliverOne(other(mine), deliver) || deliverOne(mine, deliver)) {
  }
  return Taken::yes;
}

}  // namespace papilio::engine
