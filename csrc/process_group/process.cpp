#include "process_group/process.hpp"

#include <torch/version.h>
#include <unistd.h>

#include <cstdio>
#include <mutex>
#include <stdexcept>

#include "control/addresses.hpp"
#include "control/control_plane.hpp"
#include "core/layout.hpp"
#include "process_group/network.hpp"
#include "ucx_transport/ucx_transport.hpp"

namespace papilio::pg {

namespace {

std::mutex instance_mutex;
std::weak_ptr<Process> instance;
pid_t instance_pid = 0;

engine::LogLevel parseLevel(const std::string& text) {
  using engine::LogLevel;
  if (text == "debug") return LogLevel::debug;
  if (text == "info") return LogLevel::info;
  if (text == "error") return LogLevel::error;
  if (text == "off") return LogLevel::off;
  return LogLevel::warn;
}

std::vector<std::byte> bytesOf(const std::string& text) {
  const auto view = std::as_bytes(std::span(text));
  return {view.begin(), view.end()};
}

}  // namespace

std::string versions() {
  return "papilio " PAPILIO_VERSION " torch " TORCH_VERSION " ucx " + ucx::version();
}

Process::Process(const ProcessSettings& settings) : callbacks_(std::make_shared<CallbackThread>()) {
  const auto callbacks = callbacks_;
  const auto threshold = parseLevel(settings.log_level);
  engine::EngineConfig config;
  config.versions = versions();
  // The progress thread must not wait for whoever reads stderr.
  config.log = [callbacks, threshold](engine::LogLevel level, const std::string& line) {
    if (level < threshold) return;
    callbacks->post([line] {
      std::fputs((line + "\n").c_str(), stderr);
      std::fflush(stderr);
    });
  };
  const std::string address =
      control::addressFor(settings.interface.empty() ? routeToMaster() : settings.interface);
  const auto log_line = [log = config.log](const std::string& line) {
    log(engine::LogLevel::info, "papilio: " + line);
  };
  config.lanes.transport = [address, log_line](engine::TransportObserver& observer,
                                               ProcessId self) {
    ucx::Config lane;
    lane.self = self;
    lane.max_payload = maxChunkBytes(1);
    lane.net_devices = control::interfaceOf(address);
    lane.log = log_line;
    return ucx::makeTransport(std::move(lane), observer);
  };
  config.lanes.control = [address, log_line, secret = settings.secret](
                             engine::ControlObserver& observer, engine::PeerHello self) {
    control::Config lane;
    lane.self = std::move(self);
    lane.self.host = hostName();
    lane.self.host_id = control::hostIdentity();
    lane.self.pid = static_cast<std::uint32_t>(getpid());
    lane.listen_address = address;
    lane.secret = bytesOf(secret);
    lane.log = log_line;
    return control::makeControlPlane(std::move(lane), observer);
  };
  engine_ = engine::Engine::start(std::move(config));
}

Process::~Process() {
  engine_->shutdown();
  engine_.reset();
  // Works may still hold the thread object: end the thread here, not wherever the last one goes.
  callbacks_->stop();
}

std::shared_ptr<Process> Process::acquire(const std::function<ProcessSettings()>& settings) {
  std::lock_guard lock(instance_mutex);
  // After a fork the parent's threads do not exist here: start afresh.
  auto existing = instance_pid == getpid() ? instance.lock() : nullptr;
  if (existing) return existing;
  auto fresh = std::make_shared<Process>(settings());
  instance = fresh;
  instance_pid = getpid();
  return fresh;
}

std::shared_ptr<Process> Process::current() {
  std::lock_guard lock(instance_mutex);
  return instance_pid == getpid() ? instance.lock() : nullptr;
}

}  // namespace papilio::pg
