#include "process_group/network.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <memory>

#include "control/addresses.hpp"

namespace papilio::pg {

namespace {

constexpr const char* kLoopback = "127.0.0.1";

}  // namespace

std::string hostName() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

std::string routeToMaster() {
  const char* master = std::getenv("MASTER_ADDR");
  if (master == nullptr || *master == '\0') return kLoopback;
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(master, "9", &hints, &found) != 0) return kLoopback;
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  // Connecting a datagram socket sends nothing; it only asks for the route.
  const int fd = socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return kLoopback;
  std::string out = kLoopback;
  sockaddr_storage local{};
  socklen_t size = sizeof local;
  if (connect(fd, found->ai_addr, found->ai_addrlen) == 0 &&
      getsockname(fd, reinterpret_cast<sockaddr*>(&local), &size) == 0) {
    out = control::textOf(reinterpret_cast<const sockaddr*>(&local));
  }
  close(fd);
  return out.empty() ? kLoopback : out;
}

}  // namespace papilio::pg
