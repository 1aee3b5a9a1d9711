#include "process_group/fake_device/stand_in.hpp"

#include <ATen/ATen.h>

#include <cstring>
#include <exception>
#include <memory>

#include "process_group/fake_device/streams.hpp"

namespace fake {

namespace {

struct Result {
  std::mutex mutex;
  std::exception_ptr error;
};

class StandInWork final : public c10d::Work {
 public:
  StandInWork(std::shared_ptr<Event> done, std::shared_ptr<Result> result)
      : done_(std::move(done)), result_(std::move(result)) {}
  bool isCompleted() override { return Device::instance().query(done_); }
  std::exception_ptr exception() const override {
    std::lock_guard lock(result_->mutex);
    return result_->error;
  }
  bool isSuccess() const override { return exception() == nullptr; }
  bool wait(std::chrono::milliseconds) override {
    Device::instance().block(done_, Device::instance().current());
    return true;
  }

 private:
  const std::shared_ptr<Event> done_;
  const std::shared_ptr<Result> result_;
};

}  // namespace

std::atomic<int> StandIn::sums_{0};

StandIn::StandIn(c10::intrusive_ptr<c10d::Backend> inner)
    : Backend(inner->getRank(), inner->getSize()), inner_(std::move(inner)) {}

c10::intrusive_ptr<c10d::Work> StandIn::allreduce(std::vector<at::Tensor>& tensors,
                                                  const c10d::AllreduceOptions& options) {
  auto& device = Device::instance();
  const at::Tensor tensor = tensors.at(0);
  const auto stream = device.newStream();
  {
    std::lock_guard lock(mutex_);
    streams_.push_back(stream);
  }
  const auto issued = std::make_shared<Event>();
  device.record(issued, device.current());
  device.block(issued, stream);
  auto result = std::make_shared<Result>();
  device.enqueue(stream, "the stand-in's sum", {{tensor.data_ptr(), tensor.nbytes(), true}},
                 [inner = inner_, options, result, data = tensor.data_ptr(),
                  values = at::empty(tensor.sizes(), tensor.options().device(at::kCPU))] {
                   std::memcpy(values.data_ptr(), data, values.nbytes());
                   try {
                     std::vector<at::Tensor> on_host{values};
                     inner->allreduce(on_host, options)->wait();
                     std::memcpy(data, values.const_data_ptr(), values.nbytes());
                     ++sums_;
                   } catch (...) {
                     std::lock_guard lock(result->mutex);
                     result->error = std::current_exception();
                   }
                 });
  const auto done = std::make_shared<Event>();
  device.record(done, stream);
  return c10::make_intrusive<StandInWork>(done, std::move(result));
}

void StandIn::abort() {
  inner_->abort();
  std::vector<std::int64_t> streams;
  {
    std::lock_guard lock(mutex_);
    streams = streams_;
  }
  for (const auto stream : streams) Device::instance().synchronizeStream(stream);
}

}  // namespace fake
