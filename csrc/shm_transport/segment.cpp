#include "shm_transport/segment.hpp"

#include <sys/random.h>

#include <functional>
#include <new>
#include <stdexcept>

namespace papilio::shm {

OwnSegment::OwnSegment() {
  auto* control = new (memory_.data()) Segment;  // fresh pages are zero: nothing else to set
  control->magic = kMagic;
  control->bytes = kSegmentBytes;
  if (getrandom(control->nonce.data(), sizeof(Nonce), 0) != sizeof(Nonce)) {
    throw std::runtime_error("getrandom failed");
  }
}

std::byte* OwnSegment::take(std::uint32_t bytes) {
  auto& idle = free_[bytes];
  if (!idle.empty()) {
    std::byte* data = idle.back();
    idle.pop_back();
    return data;
  }
  if (used_ + bytes > kSegmentBytes) return nullptr;
  std::byte* data = memory_.data() + used_;
  used_ += bytes;
  return data;
}

void OwnSegment::giveBack(std::byte* data, std::uint32_t bytes) {
  // Pages that stay are used again.
  if (!frozen_) memory_.drop(static_cast<std::uint64_t>(data - memory_.data()), bytes);
  free_[bytes].push_back(data);
}

std::uint64_t OwnSegment::offsetOf(std::span<const std::byte> bytes) const {
  const auto* arena = memory_.data() + kArenaOffset;
  const auto* end = memory_.data() + kSegmentBytes;
  const bool inside = std::less_equal<>{}(arena, bytes.data()) && std::less<>{}(bytes.data(), end);
  return inside ? static_cast<std::uint64_t>(bytes.data() - memory_.data()) : 0;
}

PeerSegment::PeerSegment(std::uint32_t pid, int fd, const Nonce& nonce)
    : view_(pid, fd, kSegmentBytes) {
  if (control().magic != kMagic || control().bytes != kSegmentBytes || control().nonce != nonce) {
    throw std::runtime_error("descriptor " + std::to_string(fd) + " of process " +
                             std::to_string(pid) + " is not the segment that was announced");
  }
}

bool PeerSegment::payload(std::uint64_t offset, std::uint32_t bytes,
                          std::span<const std::byte>& out) {
  out = {};
  if (bytes == 0) return true;
  if (offset < kArenaOffset || offset > kSegmentBytes || bytes > kSegmentBytes - offset) {
    return false;
  }
  out = {view_.data() + offset, bytes};
  for (auto unit = offset / kFaultAround; unit <= (offset + bytes - 1) / kFaultAround; ++unit) {
    if (touched_[unit]) continue;
    touched_.set(unit);
    ++mapped_;
  }
  return true;
}

void PeerSegment::forgetPages() {
  view_.forget(kArenaOffset);
  touched_.reset();
  mapped_ = 0;
}

}  // namespace papilio::shm
