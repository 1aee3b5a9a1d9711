// One collective on tensors of a device, as the device sees it. Everything is enqueued when it is
// issued, on a stream that only this collective uses:
//
//   caller's stream --event--> copies to the host --ready--> [gate] --> copies back --done-->
//
// The gate is a kernel of torch's that spins until the host opens it. Nothing has to be enqueued
// later, so nothing can be held up by a thread that waits for the device inside of CUDA; and a
// stream of its own lets a collective that ends early pass one that was issued before it.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <memory>
#include <vector>

#include "process_group/staged.hpp"

namespace c10d::cuda {
class StreamBlock;
}

namespace papilio::pg {

class DeviceOp {
 public:
  // Enqueues it all behind the caller's current stream. `keep`: lives as long as this.
  DeviceOp(Staged staged, std::vector<at::Tensor> keep, c10::Stream stream);
  ~DeviceOp();
  DeviceOp(const DeviceOp&) = delete;
  DeviceOp& operator=(const DeviceOp&) = delete;

  const c10::Stream& stream() const { return stream_; }
  std::uint64_t bytes() const { return staged_.bytes(); }

  // The inputs are in host memory.
  bool ready() const { return ready_.query(); }
  // The outputs are in the memory of the device; nothing uses tensors or host memory any more.
  bool done() const { return done_.query(); }
  // What the current stream of the calling thread gets from now on begins after that.
  void follow() const;
  // The engine is done with the host memory; opens the gate. Once, any thread but the engine's.
  void finish(bool good);

 private:
  const Staged staged_;
  const std::vector<at::Tensor> keep_;
  const c10::Stream stream_;
  c10::Event ready_;
  c10::Event done_;
  std::unique_ptr<c10d::cuda::StreamBlock> gate_;
};

}  // namespace papilio::pg
