// Bytes per second of every kernel on this machine's GPUs, beside what the memory allows: its clock
// times its width, and a measured copy. One JSON object on stdout; exit status 3 without a device.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "cuda/coded_kernels.hpp"
#include "cuda/kernels.hpp"
#include "engine/oracle.hpp"

namespace papilio::cuda {
namespace {

constexpr std::uint64_t kBytes = 1ULL << 30;  // of a tensor: far more than any cache
constexpr std::uint64_t kPiece = 1ULL << 20;
constexpr unsigned kMembers = 4;
constexpr int kRuns = 20;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "kernel_bench: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

struct Memory {
  Memory() {
    for (auto& input : inputs) allocate(input, kBytes);
    allocate(out, kBytes);
    allocate(small, normSlices(kBytes / 2) * sizeof(double) + 16);
    check(cudaMemset(small, 0, 16), "memset");
  }
  // Random numbers of that type in all inputs: zeros can be faster than data.
  void fill(DType dtype) const {
    const auto piece = engine::testing::randomFloating(dtype, kPiece, 5);
    for (auto* input : inputs) {
      for (std::uint64_t at = 0; at < kBytes / elementSize(dtype); at += kPiece) {
        check(cudaMemcpy(static_cast<std::byte*>(input) + at * elementSize(dtype), piece.data(),
                         piece.size(), cudaMemcpyHostToDevice),
              "fill");
      }
    }
  }
  ~Memory() {
    for (auto* input : inputs) cudaFree(input);
    cudaFree(out);
    cudaFree(small);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  static void allocate(void*& to, std::size_t bytes) {
    check(cudaMalloc(&to, bytes), "cudaMalloc");
  }
  unsigned* found() const { return static_cast<unsigned*>(small); }
  double* sum() const { return static_cast<double*>(small) + 1; }
  double* slices() const { return static_cast<double*>(small) + 2; }

  void* inputs[kMembers] = {};
  void* out = nullptr;
  void* small = nullptr;
};

// Median of kRuns, seconds.
double timed(const std::function<void()>& launch) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  std::vector<double> seconds;
  for (int run = -3; run < kRuns; ++run) {  // three to warm up
    check(cudaEventRecord(begin), "record");
    launch();
    check(cudaEventRecord(end), "record");
    check(cudaEventSynchronize(end), "kernel");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "elapsed");
    if (run >= 0) seconds.push_back(static_cast<double>(milliseconds) / 1e3);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());
  return seconds[kRuns / 2];
}

class Rows {
 public:
  explicit Rows(double copy) : copy_(copy) {}
  void add(const std::string& kernel, std::uint64_t bytes, const std::function<void()>& launch) {
    const double seconds = timed(launch);
    const double rate = static_cast<double>(bytes) / seconds;
    std::printf(
        "%s\n      {\"kernel\": \"%s\", \"bytes\": %llu, \"seconds\": %.9f, "
        "\"bytes_per_second\": %.4e, \"of_copy\": %.3f}",
        first_ ? "" : ",", kernel.c_str(), static_cast<unsigned long long>(bytes), seconds, rate,
        rate / copy_);
    first_ = false;
  }

 private:
  double copy_;
  bool first_ = true;
};

void rawKernels(const Memory& memory, Rows& rows) {
  for (const auto dtype : {DType::float32, DType::bfloat16}) {
    const std::uint64_t numel = kBytes / elementSize(dtype);
    const std::string type(name(dtype));
    memory.fill(dtype);
    Members members{};
    members.count = kMembers;
    for (unsigned k = 0; k < kMembers; ++k) {
      members.data[k] = memory.inputs[k];
      members.weight[k] = 1.0F;
    }
    rows.add("average of 4 " + type, kBytes * (kMembers + 1), [&] {
      check(average(dtype, members, Scale(1, kMembers), numel, memory.out, nullptr), "average");
    });
    rows.add("scanNonFinite " + type, kBytes, [&] {
      check(scanNonFinite(dtype, memory.inputs[0], numel, memory.found(), nullptr), "scan");
    });
    rows.add("sumSquares " + type, kBytes, [&] {
      check(sumSquares(dtype, memory.inputs[0], numel, memory.slices(), memory.sum(),
                       memory.found(), nullptr),
            "sumSquares");
    });
    const Segment segment{memory.inputs[0], memory.out, numel};
    rows.add("move " + type, 2 * kBytes,
             [&] { check(move(dtype, {&segment, 1}, Scale(), nullptr), "move"); });
  }
}

void codedKernels(const Memory& memory, Rows& rows) {
  constexpr std::pair<Codec, DType> kForms[] = {{Codec::bf16, DType::float32},
                                                {Codec::fp16, DType::float32},
                                                {Codec::int8, DType::float32},
                                                {Codec::int8, DType::bfloat16}};
  for (const auto& [codec, dtype] : kForms) {
    const std::uint64_t numel = kBytes / elementSize(dtype);
    const std::uint64_t coded = payloadBytes(codec, elementSize(dtype), numel);
    const std::string form = std::string(name(codec)) + " of " + std::string(name(dtype));
    memory.fill(dtype);
    for (unsigned k = 2; k < kMembers; ++k) {
      const Segment chunk{memory.inputs[0], memory.inputs[k], numel};
      check(encodeSegments(codec, dtype, {&chunk, 1}, nullptr), "encode");
    }
    const Segment there{memory.inputs[0], memory.inputs[1], numel};
    rows.add("encode " + form, kBytes + coded,
             [&] { check(encodeSegments(codec, dtype, {&there, 1}, nullptr), "encode"); });
    const Segment back{memory.inputs[1], memory.out, numel};
    rows.add("decode " + form, kBytes + coded,
             [&] { check(decodeSegments(codec, dtype, {&back, 1}, nullptr), "decode"); });
    Members members{};
    members.count = kMembers;
    for (unsigned k = 0; k < kMembers; ++k) {
      members.data[k] = memory.inputs[k];
      members.weight[k] = 1.0F;
    }
    rows.add("averageCoded of 4 " + form, kBytes + kMembers * coded, [&] {
      check(averageCoded(codec, dtype, members, 0, Scale(1, kMembers), numel, memory.out,
                         memory.found(), nullptr),
            "averageCoded");
    });
  }
}

void measure(int device) {
  check(cudaSetDevice(device), "cudaSetDevice");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "properties");
  int clock = 0;  // kHz
  int width = 0;  // bits
  check(cudaDeviceGetAttribute(&clock, cudaDevAttrMemoryClockRate, device), "memory clock");
  check(cudaDeviceGetAttribute(&width, cudaDevAttrGlobalMemoryBusWidth, device), "bus width");
  const double limit = 2.0 * clock * 1e3 * width / 8;
  const Memory memory;
  const double copy =
      2.0 * kBytes / timed([&] {
        check(cudaMemcpyAsync(memory.out, memory.inputs[0], kBytes, cudaMemcpyDeviceToDevice),
              "copy");
      });
  std::printf(
      "    {\"device\": %d, \"name\": \"%s\", \"sm\": %d, \"memory_limit\": %.4e, "
      "\"copy\": %.4e, \"kernels\": [",
      device, properties.name, properties.major * 10 + properties.minor, limit, copy);
  Rows rows(copy);
  rawKernels(memory, rows);
  codedKernels(memory, rows);
  std::printf("]}");
}

}  // namespace
}  // namespace papilio::cuda

int main() {
  int devices = 0;
  if (const auto error = cudaGetDeviceCount(&devices); error != cudaSuccess || devices == 0) {
    std::fprintf(stderr, "no CUDA device: kernels not measured (%s)\n", cudaGetErrorString(error));
    return 3;
  }
  std::printf("{\"bytes\": %llu, \"devices\": [\n",
              static_cast<unsigned long long>(papilio::cuda::kBytes));
  for (int device = 0; device < devices; ++device) {
    if (device != 0) std::printf(",\n");
    papilio::cuda::measure(device);
  }
  std::printf("\n]}\n");
  return 0;
}
