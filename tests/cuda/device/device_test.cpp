// The kernels on a device, against the engine's host kernels: the same bits, where any NaN equals
// any NaN. Without a device main() says so and runs nothing.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <memory>

#include "cuda/cases.hpp"
#include "cuda/device/on_device.hpp"
#include "cuda/kernels.hpp"

namespace papilio::cuda::testing {
namespace {

using engine::testing::firstDifference;

void checkAverage(const Case& made, std::size_t shift) {
  const auto expected = made.expected();
  std::vector<std::unique_ptr<OnDevice>> inputs;
  Members members{};
  for (std::size_t k = 0; k < made.inputs.size(); ++k) {
    inputs.push_back(std::make_unique<OnDevice>(made.inputs[k], shift));
    members.data[k] = inputs.back()->data();
    members.weight[k] = made.weights[k];
  }
  members.count = static_cast<unsigned>(made.inputs.size());
  const OnDevice out(Bytes(expected.size()), shift);
  ASSERT_CUDA(
      average(made.dtype, members, Scale(made.times, made.over), made.numel, out.data(), nullptr));
  ASSERT_EQ(firstDifference(made.dtype, out.read().data(), expected.data(), made.numel), made.numel)
      << name(made.dtype) << ", " << members.count << " members, shift " << shift;
}

TEST(Device, AverageIsTheEngines) {
  std::mt19937 random(7);
  for (const auto dtype : kFloating) {
    for (const std::uint64_t numel : {0, 1, 7, 8, 1000, 300'001}) {
      for (const unsigned members : {1u, 2u, 3u, 9u}) {
        checkAverage(randomCase(dtype, numel, members, random), 0);
        checkAverage(randomCase(dtype, numel, members, random), elementSize(dtype));
        if (HasFatalFailure()) return;
      }
    }
    checkAverage(randomCase(dtype, 1000, kMaxMembers, random), 0);
  }
}

TEST(Device, ScanFindsTheLastElement) {
  for (const auto dtype : kFloating) {
    const std::uint64_t numel = 100'003;
    auto data = engine::testing::randomFloating(dtype, numel, 3);
    const OnDevice found(Bytes(sizeof(unsigned)));
    const auto flag = reinterpret_cast<unsigned*>(found.data());
    const OnDevice clean(data);
    ASSERT_CUDA(scanNonFinite(dtype, clean.data(), numel, flag, nullptr));
    EXPECT_EQ(found.read(), Bytes(sizeof(unsigned)));
    engine::testing::storeFloating(dtype, data.data(), numel - 1, HUGE_VAL);
    const OnDevice dirty(data);
    ASSERT_CUDA(scanNonFinite(dtype, dirty.data(), numel, flag, nullptr));
    EXPECT_NE(found.read(), Bytes(sizeof(unsigned)));
  }
}

TEST(Device, PackAndUnpackOfMoreThanOneBatch) {
  for (const auto dtype : kFloating) {
    const std::uint64_t numel = 131;
    const std::size_t bytes = numel * elementSize(dtype);
    const std::size_t parts = 300;
    const auto data = engine::testing::randomFloating(dtype, numel * parts, 4);
    const OnDevice tensors(data);
    const OnDevice slab(Bytes(data.size()));
    std::vector<Segment> segments;
    for (std::size_t i = 0; i < parts; ++i) {  // in reverse order
      segments.push_back(
          {tensors.data() + i * bytes, slab.data() + (parts - 1 - i) * bytes, numel});
    }
    ASSERT_CUDA(move(dtype, segments, Scale(), nullptr));
    for (auto& segment : segments) {
      segment = {segment.to, const_cast<void*>(segment.from), numel};
    }
    ASSERT_CUDA(move(dtype, segments, Scale(0.3), nullptr));
    auto expected = data;
    engine::scale(dtype, expected.data(), numel * parts, 0.3);
    ASSERT_EQ(firstDifference(dtype, tensors.read().data(), expected.data(), numel * parts),
              numel * parts);
  }
}

TEST(Device, RefusesWhatTheKernelsDoNotTake) {
  Members members{};
  EXPECT_EQ(cudaErrorInvalidValue, average(DType::float32, members, Scale(), 1, nullptr, nullptr));
  members.count = 1;
  EXPECT_EQ(cudaErrorInvalidValue, average(DType::int32, members, Scale(), 1, nullptr, nullptr));
}

}  // namespace
}  // namespace papilio::cuda::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  int devices = 0;
  if (const auto error = cudaGetDeviceCount(&devices); error != cudaSuccess || devices == 0) {
    std::printf("no CUDA device: %d device tests not run (%s)\n",
                ::testing::UnitTest::GetInstance()->total_test_count(), cudaGetErrorString(error));
    return 0;
  }
  return RUN_ALL_TESTS();
}
