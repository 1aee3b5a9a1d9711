// Memory of the device under test.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "engine/oracle.hpp"

namespace papilio::cuda::testing {

using engine::testing::Bytes;

#define ASSERT_CUDA(call) ASSERT_EQ(cudaSuccess, call) << cudaGetErrorString(cudaPeekAtLastError())

// Device memory that holds a copy of `bytes` behind `shift` bytes.
class OnDevice {
 public:
  explicit OnDevice(const Bytes& bytes, std::size_t shift = 0)
      : shift_(shift), size_(bytes.size()) {
    void* memory = nullptr;
    EXPECT_EQ(cudaSuccess, cudaMalloc(&memory, size_ + shift_ + 1));
    memory_ = static_cast<std::byte*>(memory);
    EXPECT_EQ(cudaSuccess, cudaMemcpy(data(), bytes.data(), size_, cudaMemcpyHostToDevice));
  }
  ~OnDevice() { cudaFree(memory_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  std::byte* data() const { return memory_ + shift_; }
  // Waits for everything before it.
  Bytes read() const {
    Bytes bytes(size_);
    EXPECT_EQ(cudaSuccess, cudaDeviceSynchronize());
    EXPECT_EQ(cudaSuccess, cudaMemcpy(bytes.data(), data(), size_, cudaMemcpyDeviceToHost));
    return bytes;
  }

 private:
  std::byte* memory_ = nullptr;
  std::size_t shift_ = 0;
  std::size_t size_ = 0;
};

}  // namespace papilio::cuda::testing
