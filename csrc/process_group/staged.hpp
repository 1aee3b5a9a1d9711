// Host memory in the place of tensors on a device: the engine reads and writes host memory only. A
// CPU tensor stands for itself; a tensor on a device gets pinned memory of its shape, filled before
// the collective and copied back after it. Nothing here waits for a device.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace papilio::pg {

class Staged {
 public:
  using Tensors = std::vector<at::Tensor>;

  // What to give to the engine in the place of a tensor: that it reads, that it writes (all of it,
  // or nothing is defined), or both. All tensors of one collective are on one device: ValueError
  // otherwise. NotImplementedError while the current stream of the device is captured in a graph.
  at::Tensor in(const at::Tensor& tensor) { return add(tensor, true, false); }
  at::Tensor out(const at::Tensor& tensor) { return add(tensor, false, true); }
  at::Tensor inOut(const at::Tensor& tensor) { return add(tensor, true, true); }
  Tensors in(const Tensors& tensors);
  Tensors out(const Tensors& tensors);
  // What is only written keeps its contents where the collective writes nothing.
  void keepOutputs();
  // No tensor, but it begins after what is in the current stream of that device.
  void follow(c10::Device device) { device_ = device; }

  // A tensor that stays where it is. NotImplementedError as above.
  void leaveOnDevice(const at::Tensor& tensor);

  // Nullopt: all of it is on the CPU.
  std::optional<c10::Device> device() const { return device_; }
  std::uint64_t bytes() const;
  // Of a collective with one tensor.
  const at::Tensor& onDevice() const { return pairs_.front().device; }
  const at::Tensor& onHost() const { return pairs_.front().host; }

  // Enqueued on the current stream of the device.
  void copyIn() const;
  void copyOut() const;
  // Zeros in what is only written: after a failure it holds pieces, or memory of other tensors. In
  // all of it, if nothing was copied in.
  void blank(bool all) const;

 private:
  struct Pair {
    at::Tensor device;
    at::Tensor host;
    bool in;
    bool out;
  };
  at::Tensor add(const at::Tensor& tensor, bool in, bool out);

  std::vector<Pair> pairs_;
  std::optional<c10::Device> device_;
  bool on_host_ = false;
};

// Can streams of this type of device be held until the host says so? Needed for tensors there.
bool canHoldStreams(c10::DeviceType type);

}  // namespace papilio::pg
