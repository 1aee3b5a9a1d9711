#include "shm_transport/sealed_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

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

SealedMemory::SealedMemory(std::uint64_t bytes) : bytes_(bytes) {
  fd_ = memfd_create("papilio", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd_ < 0) fail("creating shared memory (memfd_create)");
  void* map = MAP_FAILED;
  if (ftruncate(fd_, static_cast<off_t>(bytes)) == 0 &&
      fcntl(fd_, F_ADD_SEALS, kSeals | F_SEAL_SEAL) == 0) {
    map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  }
  if (map == MAP_FAILED) {
    const int error = errno;
    close(fd_);
    errno = error;
    fail("mapping shared memory");
  }
  base_ = static_cast<std::byte*>(map);
  // A child of fork() must not write here.
  madvise(base_, bytes, MADV_DONTFORK);
}

SealedMemory::~SealedMemory() {
  munmap(base_, bytes_);
  close(fd_);
}

void SealedMemory::drop(std::uint64_t offset, std::uint64_t bytes) const {
  static_cast<void>(fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              static_cast<off_t>(offset), static_cast<off_t>(bytes)));
}

SealedView::SealedView(std::uint32_t pid, int fd, std::uint64_t bytes) : bytes_(bytes) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) fail("opening " + path + " (same user needed)");
  struct stat info{};
  if (fstat(file.fd, &info) != 0) fail("looking at " + path);
  const int seals = fcntl(file.fd, F_GET_SEALS);
  if (!S_ISREG(info.st_mode) || seals < 0 || (seals & kSeals) != kSeals ||
      static_cast<std::uint64_t>(info.st_size) != bytes) {
    throw std::runtime_error(path + " is not a segment of this version");
  }
  void* map = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file.fd, 0);
  if (map == MAP_FAILED) fail("mapping " + path);
  base_ = static_cast<std::byte*>(map);
  madvise(base_, bytes, MADV_DONTFORK);
}

SealedView::~SealedView() { munmap(base_, bytes_); }

void SealedView::forget(std::uint64_t offset) const {
  madvise(base_ + offset, bytes_ - offset, MADV_DONTNEED);
}

}  // namespace papilio::shm
