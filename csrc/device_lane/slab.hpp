// Device memory that the ranks of a host read from each other, used as a ring: what is taken first
// is given back first.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>

#include "device_lane/device_memory.hpp"

namespace papilio::device {

// One piece of exportable memory. It is never given back to the device, because another process may
// have it mapped: the next user in this process gets it.
class Slab {
 public:
  // At least `bytes` on the current device, `index` in this process. Throws what allocate() throws.
  static std::unique_ptr<Slab> take(DeviceMemory& memory, int index, std::uint64_t bytes);
  static void giveBack(std::unique_ptr<Slab> slab);

  std::byte* data() const { return memory_.data; }
  const Handle& handle() const { return memory_.handle; }
  std::uint64_t bytes() const { return bytes_; }

  // Where `bytes` are free, as an offset; nullopt: nowhere until the oldest are released.
  std::optional<std::uint64_t> reserve(std::uint64_t bytes);
  void releaseOldest();
  bool idle() const { return used_.empty(); }

  static constexpr std::uint64_t kAlign = 256;
  static constexpr std::uint64_t kLeast = 32ULL << 20;

 private:
  Slab(DeviceMemory& owner, int index, std::uint64_t bytes);
  struct Span {
    std::uint64_t start = 0;
    std::uint64_t stop = 0;
  };

  DeviceMemory* owner_;
  int index_;
  std::uint64_t bytes_;
  DeviceMemory::Allocation memory_;
  std::deque<Span> used_;  // oldest first
};

}  // namespace papilio::device
