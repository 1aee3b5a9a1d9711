// What the lane needs of a device: memory that other processes of the host can read, and work on
// streams. One object per kind of device; implemented for CUDA in cuda/cuda_memory.cu, for tests on
// host memory. Everything is about the current device of the calling thread; nothing waits for a
// device, but for close(). Thread-safe. What fails throws std::runtime_error with the device's own
// words.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/dtype.hpp"

namespace papilio::device {

using Stream = void*;  // the device's own handle
using Handle = std::array<std::byte, 64>;

struct Input {
  const std::byte* data = nullptr;
  float weight = 1.0F;
};

// A point in a stream; done until it is recorded.
class Event {
 public:
  virtual ~Event() = default;
  virtual void record(Stream stream) = 0;
  virtual bool done() = 0;
};

class DeviceMemory {
 public:
  struct Allocation {
    std::byte* data = nullptr;
    Handle handle{};
  };

  virtual ~DeviceMemory() = default;
  // Lives as long as the process: other processes may read it whenever.
  virtual Allocation allocate(std::uint64_t bytes) = 0;
  // Memory of another process. It stays readable when that process has ended.
  virtual std::byte* open(const Handle& handle, std::uint64_t bytes) = 0;
  // May wait until the device has done all there is, what others have enqueued included.
  virtual void close(std::byte* data) noexcept = 0;
  // A zero that scan() may set and the host reads. Dropped when nothing on the device uses it.
  virtual std::shared_ptr<unsigned> newFlag() = 0;
  virtual std::unique_ptr<Event> newEvent() = 0;

  // out = times / over * sum_k weight_k * in_k, as engine::reduceWeighted, bit for bit. `out` may
  // be one of the inputs, or pinned host memory.
  virtual void average(DType dtype, std::span<const Input> inputs, double times, double over,
                       std::uint64_t numel, std::byte* out, Stream stream) = 0;
  // Sets *flag when there is a NaN or an infinity.
  virtual void scan(DType dtype, const std::byte* data, std::uint64_t numel, unsigned* flag,
                    Stream stream) = 0;
  virtual void zero(std::byte* to, std::uint64_t bytes, Stream stream) = 0;
};

}  // namespace papilio::device
