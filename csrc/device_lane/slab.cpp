#include "device_lane/slab.hpp"

#include <algorithm>
#include <bit>
#include <mutex>
#include <vector>

namespace papilio::device {

namespace {

std::mutex pool_mutex;
std::vector<std::unique_ptr<Slab>>& pool() {
  static auto* slabs = new std::vector<std::unique_ptr<Slab>>;  // outlives every user
  return *slabs;
}

}  // namespace

Slab::Slab(DeviceMemory& owner, int index, std::uint64_t bytes)
    : owner_(&owner), index_(index), bytes_(bytes), memory_(owner.allocate(bytes)) {}

std::unique_ptr<Slab> Slab::take(DeviceMemory& memory, int index, std::uint64_t bytes) {
  bytes = std::bit_ceil(std::max(bytes, kLeast));
  {
    std::lock_guard lock(pool_mutex);
    auto& slabs = pool();
    const auto fits = std::find_if(slabs.begin(), slabs.end(), [&](const auto& slab) {
      return slab->owner_ == &memory && slab->index_ == index && slab->bytes_ >= bytes;
    });
    if (fits != slabs.end()) {
      auto out = std::move(*fits);
      slabs.erase(fits);
      out->used_.clear();
      return out;
    }
  }
  return std::unique_ptr<Slab>(new Slab(memory, index, bytes));
}

void Slab::giveBack(std::unique_ptr<Slab> slab) {
  std::lock_guard lock(pool_mutex);
  pool().push_back(std::move(slab));
}

std::optional<std::uint64_t> Slab::reserve(std::uint64_t bytes) {
  bytes = (bytes + kAlign - 1) / kAlign * kAlign;
  std::uint64_t start = used_.empty() ? 0 : used_.back().stop;
  if (!used_.empty() && used_.front().start >= start) {  // the free room is between the two
    if (used_.front().start - start < bytes) return std::nullopt;
  } else if (bytes_ - start < bytes) {
    start = 0;
    if ((used_.empty() ? bytes_ : used_.front().start) < bytes) return std::nullopt;
  }
  used_.push_back({start, start + bytes});
  return start;
}

void Slab::releaseOldest() { used_.pop_front(); }

}  // namespace papilio::device
