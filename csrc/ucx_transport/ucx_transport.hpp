// Data lane over UCX: active messages, eager, one worker, one endpoint per peer process.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "engine/transport.hpp"

namespace papilio::ucx {

struct Config {
  ProcessId self;
  std::uint32_t max_payload = 256 * 1024;  // bytes of the largest message
  std::string net_devices;                 // interface name; empty: all
  std::function<void(const std::string&)> log;
};

// Opens context and worker. All calls, the destructor included, belong to one thread. Throws
// std::runtime_error that says what failed and what to look at. A setting that the user made
// through a UCX_* environment variable is left alone.
std::unique_ptr<engine::Transport> makeTransport(Config config,
                                                 engine::TransportObserver& observer);

// "1.22.0", of the library that is loaded.
std::string version();

}  // namespace papilio::ucx
