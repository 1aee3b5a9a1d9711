#include "process_group/fake_device/slabs.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda/bodies.hpp"
#include "cuda/dispatch.hpp"
#include "process_group/fake_device/streams.hpp"

namespace fake {
namespace {

using namespace papilio;

std::int64_t streamOf(device::Stream stream) { return reinterpret_cast<std::intptr_t>(stream); }

std::byte* mapped(int fd, std::uint64_t bytes, int protection) {
  void* data = mmap(nullptr, bytes, protection, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) throw std::runtime_error("mapping memory of the fake device failed");
  return static_cast<std::byte*>(data);
}

struct Name {
  pid_t pid;
  int fd;
};

class FakeEvent final : public device::Event {
 public:
  void record(device::Stream stream) override {
    Device::instance().record(event_, streamOf(stream));
  }
  bool done() override { return Device::instance().query(event_); }

 private:
  std::shared_ptr<fake::Event> event_ = std::make_shared<fake::Event>();
};

std::atomic<int> averages_launched{0};
std::atomic<int> averages_left{0};
std::atomic<int> signal_number{0};

bool papiliosThread() {
  char name[16] = {};
  pthread_getname_np(pthread_self(), name, sizeof(name));
  return std::string(name) == "papilio-device";
}

// What loads a kernel may wait for a gate; the thread that opens gates must not be the first.
void requireLoaded(const std::string& kernel) {
  static std::mutex mutex;
  static std::set<std::string> loaded;
  std::lock_guard lock(mutex);
  if (loaded.insert(kernel).second && papiliosThread()) {
    Device::instance().complain(kernel + " loaded by papilio's thread");
  }
}

class Slabs final : public device::DeviceMemory {
 public:
  Allocation allocate(std::uint64_t bytes) override {
    const int fd = memfd_create("fake device", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
      throw std::runtime_error("the fake device has no memory left");
    }
    Allocation out;
    out.data = mapped(fd, bytes, PROT_READ | PROT_WRITE);
    Device::instance().adopt(out.data, bytes);
    const Name name{getpid(), fd};
    std::memcpy(out.handle.data(), &name, sizeof(name));
    return out;
  }

  std::byte* open(const device::Handle& handle, std::uint64_t bytes) override {
    Name name{};
    std::memcpy(&name, handle.data(), sizeof(name));
    const auto path = "/proc/" + std::to_string(name.pid) + "/fd/" + std::to_string(name.fd);
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw std::runtime_error("no such memory: " + path);
    auto* data = mapped(fd, bytes, PROT_READ);
    ::close(fd);
    std::lock_guard lock(mutex_);
    foreign_[data] = bytes;
    return data;
  }

  void close(std::byte* data) noexcept override {
    if (papiliosThread()) Device::instance().complain("papilio's thread waits for the device");
    std::lock_guard lock(mutex_);
    munmap(data, foreign_[data]);
    foreign_.erase(data);
  }

  std::shared_ptr<unsigned> newFlag() override { return std::make_shared<unsigned>(0); }
  std::unique_ptr<device::Event> newEvent() override { return std::make_unique<FakeEvent>(); }

  void average(DType dtype, std::span<const device::Input> inputs, double times, double over,
               std::uint64_t numel, std::byte* out, device::Stream stream) override {
    requireLoaded("average of " + std::string(name(dtype)));
    ++averages_launched;
    if (papiliosThread() && --averages_left == 0) kill(getpid(), signal_number);
    const auto bytes = numel * elementSize(dtype);
    cuda::Members members{};
    std::vector<Device::Touch> uses{{out, bytes, true}};
    for (const auto& input : inputs) {
      members.data[members.count] = input.data;
      members.weight[members.count++] = input.weight;
      uses.push_back({input.data, bytes, false});
    }
    const bool wide = cuda::aligned(out) &&
                      std::all_of(inputs.begin(), inputs.end(),
                                  [](const auto& input) { return cuda::aligned(input.data); });
    const cuda::Scale scale(times, over);
    Device::instance().enqueue(streamOf(stream), "an average", std::move(uses), [=] {
      cuda::forFloating(dtype, 0, [&](auto element) {
        cuda::averageElements<decltype(element)>(members, scale, numel, wide, out, 0, 1);
        return 0;
      });
    });
  }

  void scan(DType dtype, const std::byte* data, std::uint64_t numel, unsigned* flag,
            device::Stream stream) override {
    requireLoaded("scan of " + std::string(name(dtype)));
    Device::instance().enqueue(
        streamOf(stream), "a scan", {{data, numel * elementSize(dtype), false}}, [=] {
          *flag = cuda::forFloating(dtype, false, [&](auto element) {
            return cuda::nonFiniteElements<decltype(element)>(data, numel, false, 0, 1);
          });
        });
  }

  void zero(std::byte* to, std::uint64_t bytes, device::Stream stream) override {
    Device::instance().enqueue(streamOf(stream), "zeros of the lane", {{to, bytes, true}},
                               [=] { std::memset(to, 0, bytes); });
  }

 private:
  std::mutex mutex_;
  std::map<std::byte*, std::uint64_t> foreign_;
};

}  // namespace

int averages() { return averages_launched; }

void signalAtAverage(int count, int number) {
  signal_number = number;
  averages_left = count;
}

device::DeviceMemory& deviceMemory() {
  static auto* memory = new Slabs;
  return *memory;
}

}  // namespace fake
