// Owners of the mappings: the own segment, written here, and a peer's, only read.
#pragma once

#include <bitset>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/transport.hpp"
#include "shm_transport/sealed_memory.hpp"
#include "shm_transport/segment_layout.hpp"

namespace papilio::shm {

class OwnSegment final : public engine::Arena {
 public:
  OwnSegment();  // throws std::runtime_error

  std::byte* take(std::uint32_t bytes) override;
  void giveBack(std::byte* data, std::uint32_t bytes) override;

  Segment& control() { return *reinterpret_cast<Segment*>(memory_.data()); }
  const Nonce& nonce() const { return reinterpret_cast<const Segment*>(memory_.data())->nonce; }
  int fd() const { return memory_.fd(); }
  // Where `bytes` begin in the segment; zero when they are not in the arena.
  std::uint64_t offsetOf(std::span<const std::byte> bytes) const;
  // Peers may go on to read what was published: from now on no page is given back.
  void freeze() { frozen_ = true; }

 private:
  const SealedMemory memory_{kSegmentBytes};
  std::uint64_t used_ = kArenaOffset;
  std::map<std::uint32_t, std::vector<std::byte*>> free_;  // by size
  bool frozen_ = false;
};

class PeerSegment {
 public:
  // Throws std::runtime_error that says why the segment can not be read.
  PeerSegment(std::uint32_t pid, int fd, const Nonce& nonce);

  const Segment& control() const { return *reinterpret_cast<const Segment*>(view_.data()); }
  // The payload of an entry; false when it is not inside the arena.
  bool payload(std::uint64_t offset, std::uint32_t bytes, std::span<const std::byte>& out);
  // Pages of payloads so far count as this process's resident memory, at most so many bytes.
  std::uint64_t mappedBytes() const { return mapped_ * kFaultAround; }
  // Lets them go; who reads them again maps them again.
  void forgetPages();

 private:
  // A fault on one page maps its neighbours too, if they are in memory (fault_around_bytes).
  static constexpr std::uint64_t kFaultAround = 64 * 1024;

  const SealedView view_;
  std::bitset<kSegmentBytes / kFaultAround> touched_;
  std::uint64_t mapped_ = 0;  // bits set
};

}  // namespace papilio::shm
