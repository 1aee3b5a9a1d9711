// Options.host_backend="papilio" in a group whose ranks share one host: their tensors on devices
// are averaged where they are (docs/adr/0015). Here: which device has what to share.
#pragma once

#include <c10/core/Device.h>

#include <chrono>
#include <map>
#include <memory>
#include <mutex>

#include "core/ids.hpp"
#include "device_lane/device_memory.hpp"
#include "device_lane/lane.hpp"

namespace papilio::pg {

// The memory of a kind of device. Null: this build knows none that others can read.
device::DeviceMemory* deviceMemory(c10::DeviceType type);
// For a device of tests; `memory` lives as long as the process.
void registerDeviceMemory(c10::DeviceType type, device::DeviceMemory* memory);

// The lanes of one group in one view, by device. Thread-safe.
class DeviceLanes {
 public:
  DeviceLanes(Rank me, float weight, std::chrono::milliseconds patience)
      : me_(me), weight_(weight), patience_(patience) {}

  // Made at the first tensor there. Throws NotImplementedError when there is no such memory.
  std::shared_ptr<device::Lane> on(c10::Device device);
  // Nothing waits for memory any more.
  void leave();

 private:
  const Rank me_;
  const float weight_;
  const std::chrono::milliseconds patience_;
  std::mutex mutex_;
  std::map<c10::Device, std::shared_ptr<device::Lane>, bool (*)(c10::Device, c10::Device)> lanes_{
      [](c10::Device a, c10::Device b) { return a.index() < b.index(); }};
  bool left_ = false;
};

}  // namespace papilio::pg
