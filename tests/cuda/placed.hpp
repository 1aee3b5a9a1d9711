// Test memory at a chosen distance from a multiple of 16.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/bodies.hpp"
#include "engine/oracle.hpp"

namespace papilio::cuda::testing {

using engine::testing::Bytes;

// A copy of bytes at a multiple of 16, or `shift` bytes behind one.
class Placed {
 public:
  explicit Placed(const Bytes& bytes, std::size_t shift = 0)
      : memory_(bytes.size() + 2 * kPackBytes) {
    const auto at = reinterpret_cast<std::uintptr_t>(memory_.data());
    offset_ = (kPackBytes - at % kPackBytes) % kPackBytes + shift;
    if (!bytes.empty()) std::memcpy(data(), bytes.data(), bytes.size());
  }
  std::byte* data() { return memory_.data() + offset_; }

 private:
  Bytes memory_;
  std::size_t offset_ = 0;
};

}  // namespace papilio::cuda::testing
