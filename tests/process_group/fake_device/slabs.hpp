// device::DeviceMemory of the fake device: memory that other processes map, and the lane's kernels,
// which are the bodies of the CUDA ones, on the fake streams.
#pragma once

#include "device_lane/device_memory.hpp"

namespace fake {

papilio::device::DeviceMemory& deviceMemory();
// How many averages were launched in this process, copies included.
int averages();
// The process gets that signal when papilio's thread launches its `count`-th average from now on,
// before it is launched.
void signalAtAverage(int count, int number);

}  // namespace fake
