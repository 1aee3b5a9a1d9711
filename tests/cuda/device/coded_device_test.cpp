// The coded kernels and the norm on a device, against the engine's: the same bits.
#include <cmath>
#include <memory>

#include "cuda/coded_cases.hpp"
#include "cuda/coded_kernels.hpp"
#include "cuda/device/on_device.hpp"

namespace papilio::cuda::testing {
namespace {

using engine::testing::firstDifference;

void checkAverage(const CodedCase& made, std::size_t own_shift) {
  std::vector<std::unique_ptr<OnDevice>> inputs;
  Members members{};
  for (unsigned k = 0; k < made.inputs.size(); ++k) {
    inputs.push_back(std::make_unique<OnDevice>(made.inputs[k], k == made.own ? own_shift : 0));
    members.data[k] = inputs.back()->data();
    members.weight[k] = made.weights[k];
  }
  members.count = static_cast<unsigned>(made.inputs.size());
  const auto [expected, bad] = made.expected();
  const OnDevice out(Bytes(expected.size(), std::byte{0xaa}));
  const OnDevice found(Bytes(sizeof(unsigned)));
  ASSERT_CUDA(averageCoded(made.form.codec, made.form.dtype, members, made.own,
                           Scale(made.times, made.over), made.numel, out.data(),
                           reinterpret_cast<unsigned*>(found.data()), nullptr));
  ASSERT_EQ(codedDifference(made.form, out.read(), expected, made.numel), expected.size())
      << name(made.form.codec) << " of " << name(made.form.dtype) << ", " << made.numel
      << " elements, " << members.count << " members, own " << made.own;
  ASSERT_EQ(found.read() != Bytes(sizeof(unsigned)), bad);
}

TEST(CodedDevice, AverageIsTheEngines) {
  std::mt19937 random(31);
  for (const auto& form : kForms) {
    for (const std::uint64_t numel : {256, 257, 1000, 65'536, 258'048}) {
      for (const unsigned members : {1u, 2u, 3u, 9u}) {
        checkAverage(randomCoded(form, numel, members, random), 0);
        checkAverage(randomCoded(form, numel, members, random), elementSize(form.dtype));
        if (HasFatalFailure()) return;
      }
    }
    checkAverage(randomCoded(form, 1000, kMaxMembers, random), 0);
  }
}

TEST(CodedDevice, EncodesAndDecodesMoreThanOneBatch) {
  for (const auto& form : kForms) {
    const std::uint64_t numel = 1300;
    const std::size_t parts = 300;
    const std::size_t tensor_bytes = numel * elementSize(form.dtype);
    const std::size_t coded_bytes =
        (payloadBytes(form.codec, elementSize(form.dtype), numel) + 15) / 16 * 16;
    const auto data = engine::testing::randomFloating(form.dtype, numel * parts, 4, true);
    const OnDevice tensors(data);
    const OnDevice slab(Bytes(coded_bytes * parts));
    std::vector<Segment> there, back;
    for (std::size_t i = 0; i < parts; ++i) {
      there.push_back({tensors.data() + i * tensor_bytes, slab.data() + i * coded_bytes, numel});
      back.push_back({slab.data() + i * coded_bytes, tensors.data() + i * tensor_bytes, numel});
    }
    ASSERT_CUDA(encodeSegments(form.codec, form.dtype, there, nullptr));
    ASSERT_CUDA(decodeSegments(form.codec, form.dtype, back, nullptr));
    const auto coded = slab.read();
    const auto decoded = tensors.read();
    for (std::size_t i = 0; i < parts; ++i) {
      const auto from = data.begin() + static_cast<std::ptrdiff_t>(i * tensor_bytes);
      const auto expected = encodedByTheEngine(
          form, Bytes(from, from + static_cast<std::ptrdiff_t>(tensor_bytes)), numel);
      const auto at = coded.begin() + static_cast<std::ptrdiff_t>(i * coded_bytes);
      const Bytes got(at, at + static_cast<std::ptrdiff_t>(expected.size()));
      ASSERT_EQ(codedDifference(form, got, expected, numel), expected.size()) << "part " << i;
      Bytes plain(tensor_bytes);
      engine::decode(form.codec, form.dtype, expected.data(), numel, plain.data());
      ASSERT_EQ(firstDifference(form.dtype, decoded.data() + i * tensor_bytes, plain.data(), numel),
                numel);
    }
  }
}

TEST(CodedDevice, SumOfSquaresIsTheEngines) {
  for (const auto dtype : kFloating) {
    for (const std::uint64_t numel : {0, 1, 2047, 2049, 3'000'001}) {
      const auto data = engine::testing::randomFloating(dtype, numel, 6);
      const OnDevice input(data);
      const OnDevice slices(Bytes(normSlices(numel) * sizeof(double) + 1));
      const OnDevice sum(Bytes(sizeof(double), std::byte{0xaa}));
      const OnDevice found(Bytes(sizeof(unsigned)));
      ASSERT_CUDA(sumSquares(dtype, input.data(), numel, reinterpret_cast<double*>(slices.data()),
                             reinterpret_cast<double*>(sum.data()),
                             reinterpret_cast<unsigned*>(found.data()), nullptr));
      const double expected = engine::sumSquares(dtype, data.data(), numel);
      ASSERT_EQ(engine::testing::loadFloating(DType::float64, sum.read().data(), 0), expected);
      ASSERT_EQ(found.read(), Bytes(sizeof(unsigned)));
    }
  }
}

TEST(CodedDevice, RefusesChunksThatAreNotAligned) {
  Members members{};
  members.count = 1;
  members.data[0] = reinterpret_cast<const void*>(std::uintptr_t{8});
  EXPECT_EQ(cudaErrorInvalidValue, averageCoded(Codec::int8, DType::float32, members, 1, Scale(),
                                                1000, nullptr, nullptr, nullptr));
}

}  // namespace
}  // namespace papilio::cuda::testing
