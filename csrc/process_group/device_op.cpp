#include "process_group/device_op.hpp"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/distributed/c10d/cuda/StreamBlock.hpp>

#include <chrono>
#include <initializer_list>

namespace papilio::pg {

namespace {

// The gate has a limit of its own, after which the stream goes on with whatever is in host memory.
// Every collective ends before it and opens the gate, so it must not come first.
constexpr std::chrono::milliseconds kNever = std::chrono::hours(24 * 365);

c10::Stream currentStream(c10::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

// What these streams get from now on comes after what the caller's current stream has.
void beginAfterCaller(std::initializer_list<c10::Stream> streams) {
  const auto device = streams.begin()->device();
  c10::Event issued(device.type());
  issued.record(currentStream(device));
  for (const auto& stream : streams) issued.block(stream);
}

}  // namespace

DeviceOp::DeviceOp(Staged staged, std::vector<at::Tensor> keep, c10::Stream stream)
    : staged_(std::move(staged)),
      keep_(std::move(keep)),
      stream_(stream),
      sum_stream_(stream),
      ready_(stream.device_type()),
      done_(stream.device_type()) {
  beginAfterCaller({stream_});
  takeOwn();
}

DeviceOp::DeviceOp(Staged staged, std::vector<at::Tensor> keep, c10::Stream stream,
                   c10::Stream sum_stream, const SumIssue& sum)
    : staged_(std::move(staged)),
      keep_(std::move(keep)),
      stream_(stream),
      sum_stream_(sum_stream),
      summed_(true),
      ready_(stream.device_type()),
      done_(stream.device_type()) {
  beginAfterCaller({sum_stream_, stream_});
  {
    const c10::StreamGuard guard(sum_stream_);
    sum_ = sum.sums->begin(staged_.onDevice(), sum.shape);
  }
  if (!sum_) takeOwn();
}

DeviceOp::DeviceOp(Staged staged, std::vector<at::Tensor> keep, c10::Stream stream,
                   c10::Stream lane_stream, LaneIssue by_reference)
    : staged_(std::move(staged)),
      keep_(std::move(keep)),
      stream_(stream),
      sum_stream_(lane_stream),
      ready_(stream.device_type()),
      done_(stream.device_type()) {
  beginAfterCaller({sum_stream_, stream_});
  const c10::StreamGuard guard(sum_stream_);
  lane_ = std::make_unique<LaneOp>(std::move(by_reference), sum_stream_);
}

DeviceOp::~DeviceOp() = default;

std::vector<c10::Stream> DeviceOp::streams() const {
  if (sum_stream_ == stream_) return {stream_};
  return {stream_, sum_stream_};
}

// The own data to host memory.
void DeviceOp::takeOwn() {
  const c10::StreamGuard guard(sum_stream_);
  staged_.copyIn();
  ready_.record(sum_stream_);
  in_host_ = true;
}

// False: the sum is not there yet.
bool DeviceOp::takeSum() {
  const auto state = sum_->look();
  if (state == HostSum::State::running) return false;
  const c10::StreamGuard guard(sum_stream_);
  if (state == HostSum::State::failed || !sum_->copyTo(staged_.onHost())) {
    sum_.reset();
    takeOwn();
    return true;
  }
  ready_.record(sum_stream_);
  in_host_ = true;
  return true;
}

bool DeviceOp::ready() {
  if (lane_) return lane_->ready();
  if (!in_host_ && !takeSum()) return false;
  if (!ready_.query()) return false;
  if (!sum_) return true;
  {
    const c10::StreamGuard guard(sum_stream_);
    if (!sum_->arrived()) return false;
  }
  if (sum_->share().combined()) return true;
  sum_.reset();
  takeOwn();
  return false;
}

std::optional<fault::HostShare> DeviceOp::share() const {
  if (!summed_) return std::nullopt;
  return sum_ ? sum_->share() : fault::HostShare{};
}

void DeviceOp::enqueueSecondPart(bool gated) {
  const c10::StreamGuard guard(stream_);
  if (gated) {
    gate_ = c10d::cuda::StreamBlockRegistry()->Create(c10::DeviceTypeName(stream_.device_type()),
                                                      kNever);
    closed_ = gate_.get();
    if (ended_) gate_->abort();  // ended() may have looked before
  }
  // Behind the gate it comes after ready anyway: who opens it has seen that. Nothing is in host
  // memory when a group ends before the sum is there: tensors keep their values.
  if (!gated && in_host_) ready_.block(stream_);
  if (gated || in_host_) staged_.copyOut();
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
  if (!good) staged_.blank(!in_host_);
  ended();
  std::lock_guard lock(mutex_);
  if (!second_part_) enqueueSecondPart(false);
}

}  // namespace papilio::pg
