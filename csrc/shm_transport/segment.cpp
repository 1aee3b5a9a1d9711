#include "shm_transport/segment.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <stdexcept>

namespace papilio::shm {

namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

struct Descriptor {
  int fd;
  ~Descriptor() { close(fd); }
};

}  // namespace

OwnSegment::OwnSegment() {
  fd_ = memfd_create("papilio", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd_ < 0) fail("creating shared memory (memfd_create)");
  void* map = MAP_FAILED;
  if (ftruncate(fd_, kSegmentBytes) == 0 && fcntl(fd_, F_ADD_SEALS, kSeals | F_SEAL_SEAL) == 0) {
    map = mmap(nullptr, kSegmentBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  }
  if (map == MAP_FAILED) {
    const int error = errno;
    close(fd_);
    errno = error;
    fail("mapping shared memory");
  }
  base_ = static_cast<std::byte*>(map);
  // A child of fork() must not write here.
  madvise(base_, kSegmentBytes, MADV_DONTFORK);
  auto* control = new (base_) Segment;  // fresh pages are zero: nothing else to set
  control->magic = kMagic;
  control->bytes = kSegmentBytes;
  if (getrandom(control->nonce.data(), sizeof(Nonce), 0) != sizeof(Nonce)) fail("getrandom");
}

OwnSegment::~OwnSegment() {
  munmap(base_, kSegmentBytes);
  close(fd_);
}

std::byte* OwnSegment::take(std::uint32_t bytes) {
  auto& idle = free_[bytes];
  if (!idle.empty()) {
    std::byte* data = idle.back();
    idle.pop_back();
    return data;
  }
  if (used_ + bytes > kSegmentBytes) return nullptr;
  std::byte* data = base_ + used_;
  used_ += bytes;
  return data;
}

void OwnSegment::giveBack(std::byte* data, std::uint32_t bytes) {
  if (!frozen_) {
    const auto offset = static_cast<off_t>(data - base_);
    // Best effort: pages that stay are used again.
    static_cast<void>(
        fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, off_t{bytes}));
  }
  free_[bytes].push_back(data);
}

std::uint64_t OwnSegment::offsetOf(std::span<const std::byte> bytes) const {
  const auto* arena = base_ + kArenaOffset;
  const auto* end = base_ + kSegmentBytes;
  const bool inside = std::less_equal<>{}(arena, bytes.data()) && std::less<>{}(bytes.data(), end);
  return inside ? static_cast<std::uint64_t>(bytes.data() - base_) : 0;
}

PeerSegment::PeerSegment(std::uint32_t pid, int fd, const Nonce& nonce) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) fail("opening " + path + " (same user needed)");
  struct stat info{};
  if (fstat(file.fd, &info) != 0) fail("looking at " + path);
  const int seals = fcntl(file.fd, F_GET_SEALS);
  if (!S_ISREG(info.st_mode) || seals < 0 || (seals & kSeals) != kSeals ||
      static_cast<std::uint64_t>(info.st_size) != kSegmentBytes) {
    throw std::runtime_error(path + " is not a segment of this version");
  }
  void* map = mmap(nullptr, kSegmentBytes, PROT_READ, MAP_SHARED, file.fd, 0);
  if (map == MAP_FAILED) fail("mapping " + path);
  base_ = static_cast<std::byte*>(map);
  madvise(base_, kSegmentBytes, MADV_DONTFORK);
  if (control().magic != kMagic || control().bytes != kSegmentBytes || control().nonce != nonce) {
    munmap(base_, kSegmentBytes);
    throw std::runtime_error(path + " is not the segment that was announced");
  }
}

PeerSegment::~PeerSegment() { munmap(base_, kSegmentBytes); }

bool PeerSegment::payload(std::uint64_t offset, std::uint32_t bytes,
                          std::span<const std::byte>& out) const {
  out = {};
  if (bytes == 0) return true;
  if (offset < kArenaOffset || offset > kSegmentBytes || bytes > kSegmentBytes - offset) {
    return false;
  }
  out = {base_ + offset, bytes};
  return true;
}

void PeerSegment::forgetPages() { madvise(base_ + kArenaOffset, kArenaBytes, MADV_DONTNEED); }

}  // namespace papilio::shm
