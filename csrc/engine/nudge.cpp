#include "engine/nudge.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <system_error>

namespace papilio::engine {

Nudge::Nudge() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (fd_ < 0) {
    throw std::system_error(errno, std::generic_category(), "papilio can not create an eventfd");
  }
}

Nudge::~Nudge() { close(fd_); }

void Nudge::send() const {
  const std::uint64_t once = 1;
  static_cast<void>(!write(fd_, &once, sizeof once));
}

void Nudge::await(int other, Duration limit) const {
  std::array<pollfd, 2> fds{{{fd_, POLLIN, 0}, {other, POLLIN, 0}}};  // poll() passes over -1
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limit);
  const timespec at_most{seconds.count(), (limit - seconds).count()};
  if (ppoll(fds.data(), fds.size(), &at_most, nullptr) <= 0 || fds[0].revents == 0) return;
  std::uint64_t sent = 0;
  static_cast<void>(!read(fd_, &sent, sizeof sent));
}

}  // namespace papilio::engine
