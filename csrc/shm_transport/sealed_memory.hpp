// Memory that one process writes and others of its user read: a sealed memfd. It has no name, so
// nothing stays behind however its owner ends, and it can not shrink under a reader. Others open it
// through /proc/<pid>/fd, which the kernel allows to the same user only.
#pragma once

#include <cstddef>
#include <cstdint>

namespace papilio::shm {

// The owner's side. The pages are zero at first; children of fork() do not have them.
class SealedMemory {
 public:
  explicit SealedMemory(std::uint64_t bytes);  // throws std::runtime_error
  ~SealedMemory();
  SealedMemory(const SealedMemory&) = delete;
  SealedMemory& operator=(const SealedMemory&) = delete;

  std::byte* data() const { return base_; }
  std::uint64_t bytes() const { return bytes_; }
  int fd() const { return fd_; }
  // These pages go back to the system, and are zero again. Best effort.
  void drop(std::uint64_t offset, std::uint64_t bytes) const;

 private:
  const std::uint64_t bytes_;
  int fd_ = -1;
  std::byte* base_ = nullptr;
};

// A reader's side. It stays readable when the owner has ended.
class SealedView {
 public:
  // Throws std::runtime_error that says why the memory can not be read: `bytes` is its size.
  SealedView(std::uint32_t pid, int fd, std::uint64_t bytes);
  ~SealedView();
  SealedView(const SealedView&) = delete;
  SealedView& operator=(const SealedView&) = delete;

  const std::byte* data() const { return base_; }
  // Pages read so far count as this process's resident memory: let them go.
  void forget(std::uint64_t offset) const;

 private:
  const std::uint64_t bytes_;
  std::byte* base_ = nullptr;
};

}  // namespace papilio::shm
