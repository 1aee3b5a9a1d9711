// Owners of the mappings: the own segment, written here, and a peer's, only read.
//
// A segment is a sealed memfd: it has no name, so nothing stays behind however its owner ends, and
// it can not shrink under a reader. Peers open it through /proc/<pid>/fd, which the kernel allows
// to the same user only.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/transport.hpp"
#include "shm_transport/segment_layout.hpp"

namespace papilio::shm {

class OwnSegment final : public engine::Arena {
 public:
  OwnSegment();  // throws std::runtime_error
  ~OwnSegment() override;
  OwnSegment(const OwnSegment&) = delete;
  OwnSegment& operator=(const OwnSegment&) = delete;

  std::byte* take(std::uint32_t bytes) override;
  void giveBack(std::byte* data, std::uint32_t bytes) override;

  Segment& control() { return *reinterpret_cast<Segment*>(base_); }
  const Nonce& nonce() const { return reinterpret_cast<const Segment*>(base_)->nonce; }
  int fd() const { return fd_; }
  // Where `bytes` begin in the segment; zero when they are not in the arena.
  std::uint64_t offsetOf(std::span<const std::byte> bytes) const;
  // Peers may go on to read what was published: from now on no page is given back.
  void freeze() { frozen_ = true; }

 private:
  int fd_ = -1;
  std::byte* base_ = nullptr;
  std::uint64_t used_ = kArenaOffset;
  std::map<std::uint32_t, std::vector<std::byte*>> free_;  // by size
  bool frozen_ = false;
};

class PeerSegment {
 public:
  // Throws std::runtime_error that says why the segment can not be read.
  PeerSegment(std::uint32_t pid, int fd, const Nonce& nonce);
  ~PeerSegment();
  PeerSegment(const PeerSegment&) = delete;
  PeerSegment& operator=(const PeerSegment&) = delete;

  const Segment& control() const { return *reinterpret_cast<const Segment*>(base_); }
  // The payload of an entry; false when it is not inside the arena.
  bool payload(std::uint64_t offset, std::uint32_t bytes, std::span<const std::byte>& out) const;
  // Pages read so far count as this process's resident memory: let them go.
  void forgetPages();

 private:
  std::byte* base_ = nullptr;
};

}  // namespace papilio::shm
