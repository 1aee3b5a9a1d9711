// The device lane's view of CUDA (device_lane/device_memory.hpp). Lives as long as the process.
#pragma once

#include "device_lane/device_memory.hpp"

namespace papilio::cuda {

device::DeviceMemory& cudaMemory();

}  // namespace papilio::cuda
