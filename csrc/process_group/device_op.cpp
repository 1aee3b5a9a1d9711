#include "process_group/device_op.hpp"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/distributed/c10d/cuda/StreamBlock.hpp>

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
}

DeviceOp::~DeviceOp() = default;

void DeviceOp::enqueueSecondPart(bool gated) {
  const c10::StreamGuard guard(stream_);
  if (gated) {
    gate_ = c10d::cuda::StreamBlockRegistry()->Create(c10::DeviceTypeName(stream_.device_type()),
                                                      kNever);
    closed_ = gate_.get();
    if (ended_) gate_->abort();  // ended() may have looked before
  }
  staged_.copyOut();
  done_.record(stream_);
  second_part_ = true;
}

void DeviceOp::follow() {
  {
    std::lock_guard lock(mutex_);
    if (!second_part_) enqueueSecondPart(!ended_);
  }
  done_.block(currentStream(stream_.device()));
}

void DeviceOp::ended() {
  ended_ = true;
  if (auto* gate = closed_.load()) gate->abort();
}

void DeviceOp::finish(bool good) {
  if (!good) staged_.blank();
  ended();
  std::lock_guard lock(mutex_);
  if (!second_part_) enqueueSecondPart(false);
}

}  // namespace papilio::pg
