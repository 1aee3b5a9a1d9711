// A device whose memory is the host's and whose streams do everything at once, or when told to.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <vector>

#include "cuda/bodies.hpp"
#include "cuda/dispatch.hpp"
#include "device_lane/device_memory.hpp"

namespace papilio::device::testing {

class HostMemory final : public DeviceMemory {
 public:
  // From now on work waits until run().
  bool later = false;
  void run() {
    while (!work_.empty()) {
      work_.front()();
      work_.pop_front();
    }
  }
  std::atomic<int> opened{0};
  int averages = 0;

  Allocation allocate(std::uint64_t bytes) override {
    Allocation out;
    blocks_.push_back(std::make_unique<std::byte[]>(bytes));
    out.data = blocks_.back().get();
    std::memset(out.data, 0xee, bytes);
    std::memcpy(out.handle.data(), &out.data, sizeof(out.data));
    return out;
  }
  std::byte* open(const Handle& handle, std::uint64_t) override {
    std::byte* data = nullptr;
    std::memcpy(&data, handle.data(), sizeof(data));
    if (data == nullptr) throw std::runtime_error("no such memory");
    ++opened;
    return data;
  }
  void close(std::byte*) noexcept override { --opened; }
  std::shared_ptr<unsigned> newFlag() override { return std::make_shared<unsigned>(0); }
  std::unique_ptr<Event> newEvent() override { return std::make_unique<HostEvent>(*this); }

  void average(DType dtype, std::span<const Input> inputs, double times, double over,
               std::uint64_t numel, std::byte* out, Stream) override {
    ++averages;
    cuda::Members members{};
    for (const auto& input : inputs) {
      members.data[members.count] = input.data;
      members.weight[members.count++] = input.weight;
    }
    const cuda::Scale scale(times, over);
    enqueue([=] {
      cuda::forFloating(dtype, 0, [&](auto element) {
        cuda::averageElements<decltype(element)>(members, scale, numel, false, out, 0, 1);
        return 0;
      });
    });
  }
  void scan(DType dtype, const std::byte* data, std::uint64_t numel, unsigned* flag,
            Stream) override {
    enqueue([=] {
      *flag |= cuda::forFloating(dtype, 0u, [&](auto element) -> unsigned {
        return cuda::nonFiniteElements<decltype(element)>(data, numel, false, 0, 1) ? 1 : 0;
      });
    });
  }
  void zero(std::byte* to, std::uint64_t bytes, Stream) override {
    enqueue([=] { std::memset(to, 0, bytes); });
  }

 private:
  class HostEvent final : public Event {
   public:
    explicit HostEvent(HostMemory& memory) : memory_(memory) {}
    void record(Stream) override {
      *pending_ += 1;
      memory_.enqueue([pending = pending_] { *pending -= 1; });
    }
    bool done() override { return *pending_ == 0; }

   private:
    HostMemory& memory_;
    std::shared_ptr<int> pending_ = std::make_shared<int>(0);
  };

  void enqueue(std::function<void()> work) {
    if (later) {
      work_.push_back(std::move(work));
    } else {
      work();
    }
  }

  std::deque<std::function<void()>> work_;
  std::vector<std::unique_ptr<std::byte[]>> blocks_;
};

// Like that of any device it outlives its users.
inline HostMemory& newMemory() {
  static auto* all = new std::deque<HostMemory>;
  return all->emplace_back();
}

}  // namespace papilio::device::testing
