#include "control/addresses.hpp"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <map>
#include <memory>
#include <stdexcept>

#include "control/control_plane.hpp"

namespace papilio::control {

std::string textOf(const sockaddr* address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const void* raw = nullptr;
  if (address->sa_family == AF_INET) {
    raw = &reinterpret_cast<const sockaddr_in*>(address)->sin_addr;
  } else if (address->sa_family == AF_INET6) {
    raw = &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
  } else {
    return {};
  }
  return inet_ntop(address->sa_family, raw, text.data(), text.size()) != nullptr ? text.data() : "";
}

namespace {

// Interface name to its addresses, IPv4 first.
std::map<std::string, std::vector<std::string>> localAddresses() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(list, &freeifaddrs);
  std::map<std::string, std::vector<std::string>> out;
  for (const int family : {AF_INET, AF_INET6}) {
    for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
      if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != family) continue;
      out[entry->ifa_name].push_back(textOf(entry->ifa_addr));
    }
  }
  return out;
}

}  // namespace

std::string hostIdentity() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  std::array<char, 128> space{};
  const auto length = readlink("/proc/self/ns/pid", space.data(), space.size() - 1);
  return boot + " " + (length > 0 ? space.data() : "unknown");
}

std::string interfaceOf(const std::string& address) {
  for (const auto& [name, addresses] : localAddresses()) {
    for (const auto& known : addresses) {
      if (known == address) return name;
    }
  }
  return {};
}

std::string addressFor(const std::string& wanted) {
  if (wanted.empty()) return "127.0.0.1";
  const auto interfaces = localAddresses();
  if (const auto it = interfaces.find(wanted); it != interfaces.end() && !it->second.empty()) {
    return it->second.front();
  }
  std::string known;
  for (const auto& [name, addresses] : interfaces) {
    for (const auto& address : addresses) {
      if (address == wanted) return address;
    }
    known += (known.empty() ? "" : ", ") + name + " (" + addresses.front() + ")";
  }
  throw std::invalid_argument("PAPILIO_INTERFACE/interface '" + wanted +
                              "' is neither an interface nor an address of this host; there are " +
                              (known.empty() ? "none" : known));
}

}  // namespace papilio::control
