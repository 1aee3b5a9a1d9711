#include "process_group/device_lanes.hpp"

#include <c10/util/Exception.h>

#ifdef PAPILIO_CUDA
#include "cuda/cuda_memory.hpp"
#endif

namespace papilio::pg {

namespace {

std::mutex registry_mutex;
std::map<c10::DeviceType, device::DeviceMemory*>& registry() {
  static auto* memories = new std::map<c10::DeviceType, device::DeviceMemory*>;
  return *memories;
}

}  // namespace

void registerDeviceMemory(c10::DeviceType type, device::DeviceMemory* memory) {
  std::lock_guard lock(registry_mutex);
  registry()[type] = memory;
}

device::DeviceMemory* deviceMemory(c10::DeviceType type) {
#ifdef PAPILIO_CUDA
  if (type == c10::kCUDA) return &cuda::cudaMemory();
#endif
  std::lock_guard lock(registry_mutex);
  const auto found = registry().find(type);
  return found == registry().end() ? nullptr : found->second;
}

std::shared_ptr<device::Lane> DeviceLanes::on(c10::Device device) {
  auto* memory = deviceMemory(device.type());
  TORCH_CHECK_NOT_IMPLEMENTED(
      memory != nullptr,
      "papilio: Options.host_backend='papilio' averages tensors on devices with "
      "kernels that this build does not have for ",
      device,
      " (papilio was built without nvcc); leave host_backend empty on all ranks, or install the "
      "wheel with CUDA");
  std::lock_guard lock(mutex_);
  auto& lane = lanes_[device];
  if (!lane) {
    device::Lane::Config config;
    config.me = me_;
    config.device = static_cast<int>(+device.index());
    config.weight = weight_;
    config.patience = patience_;
    lane = std::make_shared<device::Lane>(*memory, config);
    if (left_) lane->leave();
  }
  return lane;
}

void DeviceLanes::leave() {
  std::lock_guard lock(mutex_);
  left_ = true;
  for (const auto& [device, lane] : lanes_) lane->leave();
}

}  // namespace papilio::pg
