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
#include "shm_transport/shm_transport.hpp"
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

std::unique_ptr<engine::Transport> openTransport(const std::string& lanes,
                                                 const std::string& address,
                                                 const std::function<void(const std::string&)>& log,
                                                 engine::TransportObserver& observer,
                                                 ProcessId self) {
  ucx::Config network;
  network.self = self;
  network.max_payload = maxChunkBytes(1);
  network.net_devices = control::interfaceOf(address);
  network.log = log;
  auto lane = ucx::makeTransport(std::move(network), observer);
  shm::Config host;
  host.self = self;
  host.host_id = control::hostIdentity();
  host.use = lanes == "ucx" ? shm::Use::never : lanes == "shm" ? shm::Use::only : shm::Use::near;
  host.log = log;
  return shm::makeTransport(std::move(host), observer, std::move(lane));
}

}  // namespace

std::string versions() {
  return "papilio " PAPILIO_VERSION " torch " TORCH_VERSION " ucx " + ucx::version();
}

Process::Process(const ProcessSettings& settings)
    : transport_(settings.transport), callbacks_(std::make_shared<CallbackThreads>()) {
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
  config.lanes.transport = [address, log_line, lanes = settings.transport](
                               engine::TransportObserver& observer, ProcessId self) {
    return openTransport(lanes, address, log_line, observer, self);
  };
  config.lanes.control = [address, log_line, secret = settings.secret](
                             engine::ControlObserver& observer, engine::PeerHello self,
                             engine::Wheel& wheel) {
    control::Config lane;
    lane.self = std::move(self);
    lane.self.host = hostName();
    lane.self.host_id = control::hostIdentity();
    lane.self.pid = static_cast<std::uint32_t>(getpid());
    lane.listen_address = address;
    lane.secret = bytesOf(secret);
    lane.log = log_line;
    return control::makeControlPlane(std::move(lane), observer, wheel);
  };
  engine_ = engine::Engine::start(std::move(config));
}

Process::~Process() {
  engine_->shutdown();
  engine_.reset();
  // Works may still hold the thread object: end the thread here, not wherever the last one goes.
  callbacks_->stop();
}

std::shared_ptr<Process> Process::acquire(const std::string& transport,
                                          const std::function<ProcessSettings()>& settings) {
  std::lock_guard lock(instance_mutex);
  // After a fork the parent's threads do not exist here: start afresh.
  auto existing = instance_pid == getpid() ? instance.lock() : nullptr;
  if (existing && existing->transport() != transport) {
    throw std::invalid_argument("transport='" + transport + "': this process already runs with '" +
                                existing->transport() +
                                "', which all its groups share; set PAPILIO_TRANSPORT for all");
  }
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
