// How a sleeping process of the same host is woken: a pipe of its own, whose writing end peers open
// through /proc. Nothing of it has a name. One thread at a time.
#pragma once

#include <cstdint>

namespace papilio::shm {

class Doorbell {
 public:
  Doorbell();  // throws std::runtime_error
  ~Doorbell();
  Doorbell(const Doorbell&) = delete;
  Doorbell& operator=(const Doorbell&) = delete;

  int readFd() const { return read_fd_; }
  int writeFd() const { return write_fd_; }
  // Forgets what was rung.
  void drain();

 private:
  int read_fd_ = -1;
  int write_fd_ = -1;
};

// The writing end of a peer's doorbell. Open for reading too: writing to the bell of a process that
// has just died then raises no SIGPIPE, in whatever thread.
class PeerBell {
 public:
  PeerBell(std::uint32_t pid, int fd);  // throws std::runtime_error
  ~PeerBell();
  PeerBell(const PeerBell&) = delete;
  PeerBell& operator=(const PeerBell&) = delete;

  // Never blocks: a bell that is full has been rung often enough.
  void ring();

 private:
  int fd_ = -1;
};

}  // namespace papilio::shm
