// What a peer of the same host needs to reach a segment, put in front of the address of the other
// lane. Comes over the authenticated control connection, and is still checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "shm_transport/segment_layout.hpp"

namespace papilio::shm {

struct Address {
  std::string host_id;  // equal for processes that share a kernel and a pid namespace
  std::uint32_t pid = 0;
  std::int32_t segment_fd = -1;
  std::int32_t bell_fd = -1;         // of the progress thread
  std::int32_t waiter_bell_fd = -1;  // of a thread that waits for a collective
  Nonce nonce{};
};

// Without `own` the process has no segment.
std::vector<std::byte> join(const std::optional<Address>& own,
                            std::span<const std::byte> other_lane);

struct Parts {
  std::optional<Address> own;
  std::span<const std::byte> other_lane;
};
// Whatever is damaged is left out.
Parts split(std::span<const std::byte> joined);

}  // namespace papilio::shm
