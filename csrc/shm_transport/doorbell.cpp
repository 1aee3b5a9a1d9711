#include "shm_transport/doorbell.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

namespace papilio::shm {

Doorbell::Doorbell() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) {
    throw std::runtime_error(std::string("creating a doorbell (pipe): ") + std::strerror(errno));
  }
  read_fd_ = ends[0];
  write_fd_ = ends[1];
}

Doorbell::~Doorbell() {
  close(read_fd_);
  close(write_fd_);
}

void Doorbell::drain() {
  std::array<char, 256> rung;
  while (read(read_fd_, rung.data(), rung.size()) == static_cast<ssize_t>(rung.size())) {
  }
}

PeerBell::PeerBell(std::uint32_t pid, int fd) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  fd_ = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
  struct stat info{};
  if (fd_ >= 0 && fstat(fd_, &info) == 0 && S_ISFIFO(info.st_mode)) return;
  const std::string why = fd_ < 0 ? std::strerror(errno) : "not a pipe";
  if (fd_ >= 0) close(fd_);
  throw std::runtime_error("opening the doorbell " + path + ": " + why);
}

PeerBell::~PeerBell() { close(fd_); }

void PeerBell::ring() {
  const char once = 1;
  static_cast<void>(!write(fd_, &once, 1));
}

}  // namespace papilio::shm
