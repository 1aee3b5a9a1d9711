#include "ucx_transport/ucx_context.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

namespace papilio::ucx {

namespace {

struct Setting {
  std::string key;  // without the UCX_ prefix
  std::string value;
};

// Why each: TCP eager is what survives kill -9 without leftovers; segments of one message avoid
// fragments; connecting must not block the progress thread; a stopped peer is ours to judge, so
// UCX's own timers are longer than anything we wait for.
std::vector<Setting> settingsFor(const Config& config) {
  const std::string segment = std::to_string(config.max_payload + 16 * 1024);
  std::vector<Setting> out{
      {"TLS", "tcp"},
      {"TCP_TX_SEG_SIZE", segment},
      {"TCP_RX_SEG_SIZE", segment},
      {"TCP_CONN_NB", "y"},
      {"TCP_SYN_CNT", "2"},
      {"TCP_KEEPIDLE", "5s"},
      {"TCP_KEEPINTVL", "1s"},
      {"TCP_KEEPCNT", "3"},
      {"TCP_USER_TIMEOUT", "60s"},
      {"TCP_PUT_ENABLE", "n"},
      {"TCP_MAX_NUM_EPS", "512"},
      {"RNDV_THRESH", "inf"},
      {"KEEPALIVE_INTERVAL", "inf"},
  };
  if (!config.net_devices.empty()) out.push_back({"NET_DEVICES", config.net_devices});
  // Within a host the kernel would let a connection queue 4 MiB and more, for every pair of ranks.
  // Less kernel time was seen with 1 MiB on a busy machine; not yet compared on a quiet one.
  // Between hosts the kernel's own tuning knows the path better.
  if (config.net_devices == "lo") {
    out.push_back({"TCP_SNDBUF", "1m"});
    out.push_back({"TCP_RCVBUF", "1m"});
  }
  return out;
}

// UCX aborts the process when it runs out of descriptors while it starts: look first.
void requireDescriptors() {
  constexpr std::size_t kNeeded = 32;
  std::vector<int> taken;
  while (taken.size() < kNeeded) {
    const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fd < 0) break;
    taken.push_back(fd);
  }
  for (const int fd : taken) close(fd);
  if (taken.size() == kNeeded) return;
  throw std::runtime_error(
      "papilio can not open its data lane: too few file descriptors are left; raise the limit "
      "(ulimit -n), three per peer and 32 more are needed");
}

struct ConfigDeleter {
  void operator()(ucp_config_t* config) const { ucp_config_release(config); }
};

}  // namespace

std::string version() { return ucp_get_version_string(); }

ContextPtr openContext(const Config& config) {
  requireDescriptors();
  ucp_config_t* raw = nullptr;
  check(ucp_config_read(nullptr, nullptr, &raw), "reading the configuration");
  const std::unique_ptr<ucp_config_t, ConfigDeleter> options(raw);
  for (const auto& [key, value] : settingsFor(config)) {
    if (std::getenv(("UCX_" + key).c_str()) != nullptr) continue;
    check(ucp_config_modify(options.get(), key.c_str(), value.c_str()),
          "setting " + key + "=" + value);
  }
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.name = "papilio";
  ucp_context_h context = nullptr;
  check(ucp_init(&params, options.get(), &context), "opening a context");
  return ContextPtr(context);
}

WorkerPtr openWorker(ucp_context_h context) {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  ucp_worker_h worker = nullptr;
  check(ucp_worker_create(context, &params, &worker),
        "opening a worker (no usable network interface, or too few file descriptors: ulimit -n)");
  return WorkerPtr(worker);
}

}  // namespace papilio::ucx
