// The line that a process publishes so that others can dial it:
// "papilio2 10.0.0.3:41532 0123456789abcdef 89abcdef01234567": address, process, host.
#pragma once

#include <asio/ip/tcp.hpp>

#include <string>

#include "core/ids.hpp"

namespace papilio::control {

struct Record {
  asio::ip::tcp::endpoint endpoint;
  ProcessId process;
  std::uint64_t host = 0;  // hash of hostIdentity()
};

std::string formatRecord(const std::string& address_and_port, ProcessId process,
                         std::uint64_t host);
// Throws std::invalid_argument for anything that formatRecord() can not have made.
Record parseRecord(const std::string& text);

}  // namespace papilio::control
