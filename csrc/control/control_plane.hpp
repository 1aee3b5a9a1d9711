// Control plane over TCP: one authenticated connection per pair of processes, and the place where
// the progress thread sleeps.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/time.hpp"
#include "engine/control_plane.hpp"

namespace papilio::control {

struct Config {
  engine::PeerHello self;         // `address` is filled in from the listener
  std::string listen_address;     // local IP address
  std::vector<std::byte> secret;  // equal for all processes of the job
  Duration handshake_timeout = 5s;
  Duration parking_time = 60s;  // for a peer that calls before connect() names it
  std::function<void(const std::string&)> log;
};

// Throws std::runtime_error when the address can not be listened on. All calls are made with the
// wheel in hand.
std::unique_ptr<engine::ControlPlane> makeControlPlane(Config config,
                                                       engine::ControlObserver& observer,
                                                       engine::Wheel& wheel);

// Equal for processes that share a kernel and a pid namespace: there pidfd works.
std::string hostIdentity();

// Hash of the host identity of the process that published the record. Throws std::invalid_argument
// for anything that is none.
std::uint64_t hostOf(const std::string& record);

// Local IP address for what the user wrote: an address of this host or an interface name. Throws
// std::invalid_argument that lists the interfaces that exist.
std::string addressFor(const std::string& interface_or_address);

}  // namespace papilio::control
