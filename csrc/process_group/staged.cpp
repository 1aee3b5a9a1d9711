#include "process_group/staged.hpp"

#include <ATen/core/grad_mode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/cuda/StreamBlock.hpp>

#include <cstring>

namespace papilio::pg {

namespace {

// CUDA forbids most of what is needed here while a graph is recorded, and a graph that is replayed
// would not pass by the host.
void requireNoCapture(c10::Device device) {
  const c10::impl::VirtualGuardImpl guard(device.type());
  TORCH_CHECK_NOT_IMPLEMENTED(
      !guard.isStreamCapturing(guard.getStream(device)),
      "papilio: a collective can not be captured in a graph (the current stream of ", device,
      " is being captured): its data goes through the host; issue it outside of the graph");
}

}  // namespace

bool canHoldStreams(c10::DeviceType type) {
  return c10d::cuda::StreamBlockRegistry()->Has(c10::DeviceTypeName(type));
}

at::Tensor Staged::add(const at::Tensor& tensor, bool in, bool out) {
  if (tensor.device().is_cpu()) {
    on_host_ = true;
    TORCH_CHECK_VALUE(!device_, "papilio: a collective with tensors on cpu and on ", *device_,
                      "; move them to one device");
    return tensor;
  }
  const auto device = tensor.device();
  TORCH_CHECK_VALUE(!on_host_ && device_.value_or(device) == device,
                    "papilio: a collective with tensors on ",
                    on_host_ ? c10::Device(c10::kCPU) : *device_, " and on ", device,
                    "; move them to one device");
  if (!device_) requireNoCapture(device);
  device_ = device;
  const auto options = tensor.options().device(at::kCPU).requires_grad(false).pinned_memory(true);
  pairs_.push_back({tensor, at::empty(tensor.sizes(), options), in, out});
  return pairs_.back().host;
}

void Staged::leaveOnDevice(const at::Tensor& tensor) {
  requireNoCapture(tensor.device());
  device_ = tensor.device();
}

Staged::Tensors Staged::in(const Tensors& tensors) {
  Tensors hosts;
  for (const auto& tensor : tensors) hosts.push_back(in(tensor));
  return hosts;
}

Staged::Tensors Staged::out(const Tensors& tensors) {
  Tensors hosts;
  for (const auto& tensor : tensors) hosts.push_back(out(tensor));
  return hosts;
}

void Staged::keepOutputs() {
  for (auto& pair : pairs_) pair.in = true;
}

std::uint64_t Staged::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& pair : pairs_) sum += pair.host.nbytes();
  return sum;
}

void Staged::copyIn() const {
  const at::NoGradGuard no_grad;
  for (const auto& pair : pairs_) {
    if (pair.in) at::Tensor(pair.host).copy_(pair.device.detach(), /*non_blocking=*/true);
  }
}

void Staged::copyOut() const {
  const at::NoGradGuard no_grad;
  for (const auto& pair : pairs_) {
    if (pair.out) pair.device.detach().copy_(pair.host, /*non_blocking=*/true);
  }
}

void Staged::blank(bool all) const {
  for (const auto& pair : pairs_) {
    if (all || !pair.in) std::memset(pair.host.data_ptr(), 0, pair.host.nbytes());
  }
}

}  // namespace papilio::pg
