// What the tests of both data lanes need: payloads, and a thread that serves several lanes.
#pragma once

#include <poll.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <random>
#include <vector>

namespace papilio::testing {

inline constexpr std::chrono::seconds kLimit{20};  // a failing wait ends here

inline std::vector<std::byte> pattern(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> out(size);
  for (auto& byte : out) byte = static_cast<std::byte>(random());
  return out;
}

// Progresses the lanes, sleeping on their descriptors, until `done`; false after `limit`. A Lane
// has a `transport`.
template <class Lane>
bool pumpLanes(const std::vector<Lane*>& lanes, const std::function<bool()>& done,
               std::chrono::milliseconds limit) {
  constexpr int kNapMs = 20;
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!done()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::uint32_t events = 0;
    for (auto* lane : lanes) events += lane->transport->progress();
    if (events != 0) continue;
    std::vector<pollfd> fds;
    bool armed = true;
    for (auto* lane : lanes) {
      armed = lane->transport->arm() && armed;
      fds.push_back({lane->transport->eventFd(), POLLIN, 0});
    }
    if (armed) poll(fds.data(), fds.size(), kNapMs);
  }
  return true;
}

}  // namespace papilio::testing
