// Owners of UCX's C objects.
#pragma once

#include <ucp/api/ucp.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "ucx_transport/ucx_transport.hpp"

namespace papilio::ucx {

inline void check(ucs_status_t status, const std::string& what) {
  if (status != UCS_OK) {
    throw std::runtime_error("UCX: " + what + ": " + ucs_status_string(status) +
                             "; UCX_LOG_LEVEL=info and `ucx_info -d` show more");
  }
}

struct ContextDeleter {
  void operator()(ucp_context* context) const { ucp_cleanup(context); }
};
struct WorkerDeleter {
  void operator()(ucp_worker* worker) const { ucp_worker_destroy(worker); }
};
using ContextPtr = std::unique_ptr<ucp_context, ContextDeleter>;
using WorkerPtr = std::unique_ptr<ucp_worker, WorkerDeleter>;

ContextPtr openContext(const Config& config);
WorkerPtr openWorker(ucp_context_h context);

}  // namespace papilio::ucx
