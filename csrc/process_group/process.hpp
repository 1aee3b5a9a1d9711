// What all groups of this process share: the engine and the callback threads. Lives as long as a
// backend holds it, so that nothing stays behind after the last group is gone.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "engine/engine.hpp"
#include "process_group/callback_threads.hpp"

namespace papilio::pg {

struct ProcessSettings {
  std::string interface;           // name or address; empty: the one that routes to MASTER_ADDR
  std::string secret;              // job secret for the control handshake
  std::string log_level = "warn";  // debug, info, warn, error, off
  std::string transport = "auto";  // auto, ucx, shm
};

class Process {
 public:
  explicit Process(const ProcessSettings& settings);  // throws std::runtime_error
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // The process's instance; started with what `settings` returns if there is none. Throws
  // std::invalid_argument when it runs with another `transport` than the one asked for.
  static std::shared_ptr<Process> acquire(const std::string& transport,
                                          const std::function<ProcessSettings()>& settings);
  static std::shared_ptr<Process> current();  // nullptr when no group exists

  const std::string& transport() const { return transport_; }
  engine::Engine& engine() { return *engine_; }
  CallbackThreads& callbacks() { return *callbacks_; }
  std::shared_ptr<CallbackThreads> sharedCallbacks() { return callbacks_; }
  // Number of groups that this process has created so far: makes the identity of a re-created
  // group new.
  static std::uint64_t nextGroupNumber() {
    static std::atomic<std::uint64_t> groups{0};
    return ++groups;
  }

 private:
  std::string transport_;
  std::shared_ptr<CallbackThreads> callbacks_;
  std::shared_ptr<engine::Engine> engine_;
};

// "papilio 0.1.0 torch 2.14.1 ucx 1.22.0"
std::string versions();

}  // namespace papilio::pg
