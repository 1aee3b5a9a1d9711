// device::DeviceMemory for CUDA: memory by cudaIpc handles, and the kernels.
#include "cuda/cuda_memory.hpp"

#include <cuda_runtime.h>

#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/kernels.hpp"

namespace papilio::cuda {
namespace {

void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // or the next call of somebody else returns it
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

cudaStream_t streamOf(device::Stream stream) { return static_cast<cudaStream_t>(stream); }

class CudaEvent final : public device::Event {
 public:
  CudaEvent() {
    require(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate");
  }
  ~CudaEvent() override { static_cast<void>(cudaEventDestroy(event_)); }
  void record(device::Stream stream) override {
    require(cudaEventRecord(event_, streamOf(stream)), "cudaEventRecord");
  }
  bool done() override {
    const auto state = cudaEventQuery(event_);
    if (state == cudaErrorNotReady) {
      static_cast<void>(cudaGetLastError());
      return false;
    }
    require(state, "a kernel or copy of papilio's");
    return true;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

class CudaMemory final : public device::DeviceMemory {
 public:
  Allocation allocate(std::uint64_t bytes) override {
    void* data = nullptr;
    require(cudaMalloc(&data, bytes), "cudaMalloc");
    cudaIpcMemHandle_t handle;
    require(cudaIpcGetMemHandle(&handle, data), "cudaIpcGetMemHandle");
    Allocation out;
    static_assert(sizeof(handle) == sizeof(out.handle));
    out.data = static_cast<std::byte*>(data);
    std::memcpy(out.handle.data(), &handle, sizeof(handle));
    return out;
  }

  std::byte* open(const device::Handle& handle, std::uint64_t) override {
    cudaIpcMemHandle_t theirs;
    std::memcpy(&theirs, handle.data(), sizeof(theirs));
    void* data = nullptr;
    require(cudaIpcOpenMemHandle(&data, theirs, cudaIpcMemLazyEnablePeerAccess),
            "cudaIpcOpenMemHandle (the GPUs must reach each other, see nvidia-smi topo -p2p r)");
    return static_cast<std::byte*>(data);
  }

  void close(std::byte* data) noexcept override { static_cast<void>(cudaIpcCloseMemHandle(data)); }

  std::shared_ptr<unsigned> newFlag() override {
    std::lock_guard lock(mutex_);
    if (flags_.empty()) {
      void* page = nullptr;
      require(cudaHostAlloc(&page, kFlags * sizeof(unsigned), cudaHostAllocPortable),
              "cudaHostAlloc");
      for (unsigned i = 0; i < kFlags; ++i) flags_.push_back(static_cast<unsigned*>(page) + i);
    }
    auto* flag = flags_.back();
    flags_.pop_back();
    *flag = 0;
    // Never back to CUDA: cudaFreeHost waits for the whole device.
    return {flag, [this](unsigned* used) {
              std::lock_guard again(mutex_);
              flags_.push_back(used);
            }};
  }

  std::unique_ptr<device::Event> newEvent() override { return std::make_unique<CudaEvent>(); }

  void average(DType dtype, std::span<const device::Input> inputs, double times, double over,
               std::uint64_t numel, std::byte* out, device::Stream stream) override {
    Members members{};
    for (const auto& input : inputs) {
      members.data[members.count] = input.data;
      members.weight[members.count++] = input.weight;
    }
    require(cuda::average(dtype, members, {times, over}, numel, out, streamOf(stream)),
            "launching the average");
  }

  void scan(DType dtype, const std::byte* data, std::uint64_t numel, unsigned* flag,
            device::Stream stream) override {
    require(scanNonFinite(dtype, data, numel, flag, streamOf(stream)), "launching the scan");
  }

  void zero(std::byte* to, std::uint64_t bytes, device::Stream stream) override {
    require(cudaMemsetAsync(to, 0, bytes, streamOf(stream)), "cudaMemsetAsync");
  }

 private:
  static constexpr unsigned kFlags = 1024;
  std::mutex mutex_;
  std::vector<unsigned*> flags_;  // idle
};

}  // namespace

device::DeviceMemory& cudaMemory() {
  static auto* memory = new CudaMemory;
  return *memory;
}

}  // namespace papilio::cuda
