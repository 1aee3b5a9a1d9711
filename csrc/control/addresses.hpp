// Addresses of this host as text.
#pragma once

#include <sys/socket.h>

#include <string>

namespace papilio::control {

// "10.0.0.3" or "fe80::1"; empty for an address that is neither IPv4 nor IPv6.
std::string textOf(const sockaddr* address);

// Name of the interface that has this address; empty when there is none.
std::string interfaceOf(const std::string& address);

}  // namespace papilio::control
