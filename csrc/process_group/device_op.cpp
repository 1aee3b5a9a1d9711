#include "process_group/device_op.hpp"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/distributed/c10d/cuda/StreamBlock.hpp>

#include <atomic>
#include <chrono>

namespace papilio::pg {

namespace {

// The gate has a limit of its own, after which the stream goes on with whatever is in host memory.
// Every collective ends before it and opens the gate, so it must not come first.
constexpr std::chrono::milliseconds kNever = std::chrono::hours(24 * 365);

c10::Stream currentStream(c10::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

}  // namespace

DeviceOp::DeviceOp(Staged staged, std::vector<at::Tensor> keep, c10::Stream stream)
    : staged_(std::move(staged)),
      keep_(std::move(keep)),
      stream_(stream),
      ready_(stream.device_type()),
      done_(stream.device_type()) {
  c10::Event issued(stream.device_type());
  issued.record(currentStream(stream.device()));
  issued.block(stream_);
  const c10::StreamGuard guard(stream_);
  staged_.copyIn();
  ready_.record(stream_);
  gate_ =
      c10d::cuda::StreamBlockRegistry()->Create(c10::DeviceTypeName(stream.device_type()), kNever);
  staged_.copyOut();
  done_.record(stream_);
}

DeviceOp::~DeviceOp() = default;

void DeviceOp::follow() const { done_.block(currentStream(stream_.device())); }

void DeviceOp::finish(bool good) {
  if (!good) staged_.blank();
  std::atomic_thread_fence(std::memory_order_seq_cst);
  gate_->abort();
}

}  // namespace papilio::pg
