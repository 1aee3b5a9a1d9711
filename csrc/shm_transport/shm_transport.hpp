// Data lane within a host: messages by reference through shared memory, everything else through
// another lane. Chosen per pair of processes when it connects.
//
// A message is an entry in a ring of the sender's segment, and its payload stays where the sender
// staged it until the receiver says that it has taken it. A killed sender leaves either a whole
// message or none; a frozen receiver keeps what is on its way to it, bounded by the engine's
// window.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "engine/transport.hpp"

namespace papilio::shm {

enum class Use : std::uint8_t {
  never,  // only the other lane
  near,   // with peers of the same host, where it works
  only,   // peers that can not be reached through shared memory are not reached
};

struct Config {
  ProcessId self;
  std::string host_id;  // equal for processes that share a kernel and a pid namespace
  Use use = Use::near;
  std::function<void(const std::string&)> log;
};

// Puts shared memory in front of `other`. When this process can have no segment, only `other` is
// used, or std::runtime_error says what failed (Use::only).
std::unique_ptr<engine::Transport> makeTransport(Config config, engine::TransportObserver& observer,
                                                 std::unique_ptr<engine::Transport> other);

}  // namespace papilio::shm
