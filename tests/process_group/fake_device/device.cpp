// A device for torch without any hardware, under the name "fake" (torch's PrivateUse1): its memory
// is the host's, its streams are threads. Copies that do not block and the functions below are
// asynchronous; every other operation waits for the current stream and runs on the CPU.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>
#include <torch/csrc/distributed/c10d/cuda/StreamBlock.hpp>

#include <pthread.h>

#include <string>

#include "process_group/fake_device/slabs.hpp"
#include "process_group/fake_device/stand_in.hpp"
#include "process_group/fake_device/streams.hpp"

namespace fake {
namespace {

constexpr auto kType = c10::DeviceType::PrivateUse1;
const c10::Device kDevice(kType, 0);

c10::Stream asStream(std::int64_t number) {
  return c10::Stream(c10::Stream::UNSAFE, kDevice, number);
}
using EventPtr = std::shared_ptr<Event>;
EventPtr& asEvent(void* event) { return *static_cast<EventPtr*>(event); }

struct Guard final : c10::impl::DeviceGuardImplInterface {
  Guard() = default;
  explicit Guard(c10::DeviceType) {}
  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override {
    return asStream(Device::instance().current());
  }
  c10::Stream getDefaultStream(c10::Device) const override { return asStream(0); }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override {
    return asStream(Device::instance().newStream());
  }
  c10::Stream getNewStream(c10::Device, int) const override {
    return asStream(Device::instance().newStream());
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    return asStream(Device::instance().exchangeCurrent(stream.id()));
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<EventPtr*>(event);
  }
  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    if (*event == nullptr) *event = new EventPtr(std::make_shared<Event>());
    Device::instance().record(asEvent(*event), stream.id());
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (event != nullptr) Device::instance().block(asEvent(event), stream.id());
  }
  bool queryEvent(void* event) const override {
    return event == nullptr || Device::instance().query(asEvent(event));
  }
  void synchronizeEvent(void* event) const override {
    if (event != nullptr) Device::instance().synchronize(asEvent(event));
  }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  bool queryStream(const c10::Stream& stream) const override {
    return Device::instance().idle(stream.id());
  }
  void synchronizeStream(const c10::Stream& stream) const override {
    Device::instance().synchronizeStream(stream.id());
  }
  void* getStreamNativeHandle(const c10::Stream stream) const override {
    return reinterpret_cast<void*>(static_cast<std::intptr_t>(stream.id()));
  }
  bool isStreamCapturing(const c10::Stream&) const override { return Device::instance().capturing; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Allocator final : at::Allocator {
  explicit Allocator(bool pinned) : pinned_(pinned) {}
  at::DataPtr allocate(std::size_t bytes) override {
    void* data = Device::instance().allocate(bytes, pinned_);
    return {data, data, &release, pinned_ ? c10::Device(c10::kCPU) : kDevice};
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  static void release(void* data) { Device::instance().release(data); }

 private:
  bool pinned_;
};
Allocator device_memory(false);
Allocator pinned_memory(true);
REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, &device_memory)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
  bool isPinnedPtr(const void* data) const override { return Device::instance().pinned(data); }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
};

// torch's CUDA build has a kernel that spins.
class Block final : public c10d::cuda::StreamBlock {
 public:
  explicit Block(std::chrono::milliseconds)
      : gate_(Device::instance().hold(Device::instance().current())) {}
  void abort() override { Device::instance().open(gate_); }
  c10d::cuda::StreamBlockStatus status() override { return c10d::cuda::UNKNOWN; }

 private:
  std::shared_ptr<Gate> gate_;
};

at::Tensor emptyStrided(c10::IntArrayRef size, c10::IntArrayRef stride,
                        std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                        std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &device_memory,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &device_memory,
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

// Of results that torch makes empty and gives their size later; they have nothing to keep.
const at::Tensor& resize(const at::Tensor& self, c10::IntArrayRef size,
                         std::optional<at::MemoryFormat>) {
  auto* tensor = self.unsafeGetTensorImpl();
  tensor->set_sizes_contiguous(size);
  const auto bytes = static_cast<std::size_t>(self.numel()) * self.itemsize();
  auto& storage = *self.storage().unsafeGetStorageImpl();
  if (storage.nbytes() >= bytes) return self;
  storage.set_data_ptr(device_memory.allocate(bytes));
  storage.set_nbytes(bytes);
  return self;
}

const char* nameOf(const at::Tensor& from, const at::Tensor& to) {
  if (from.device() == to.device()) return "a copy on the device";
  return to.device().is_cpu() ? "a copy to the host" : "a copy to the device";
}

// Other shapes or types on the two sides: at once.
void copyNow(const at::Tensor& self, const at::Tensor& dst) {
  auto& device = Device::instance();
  const auto onHost = [](const at::Tensor& tensor) {
    return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(),
                         at::TensorOptions(tensor.dtype()));
  };
  device.enqueue(
      device.current(), nameOf(self, dst),
      {{self.const_data_ptr(), self.nbytes(), false}, {dst.data_ptr(), dst.nbytes(), true}},
      [from = onHost(self), to = onHost(dst)] { at::Tensor(to).copy_(from); });
  device.synchronizeStream(device.current());
}

at::Tensor copyFrom(const at::Tensor& self, const at::Tensor& dst, bool non_blocking) {
  auto& device = Device::instance();
  const auto bytes = self.nbytes();
  if (bytes == 0) return dst;
  const bool plain = self.sizes() == dst.sizes() && self.dtype() == dst.dtype() &&
                     self.strides() == dst.strides() && dst.is_non_overlapping_and_dense();
  if (!plain) {
    copyNow(self.expand_as(dst), dst);
    return dst;
  }
  const void* from = self.const_data_ptr();
  void* to = dst.data_ptr();
  // As with CUDA, memory that is not pinned can not be read later.
  const bool later = non_blocking && (!self.device().is_cpu() || device.pinned(from)) &&
                     (!dst.device().is_cpu() || device.pinned(to));
  device.enqueue(device.current(), nameOf(self, dst), {{from, bytes, false}, {to, bytes, true}},
                 [=] { std::memcpy(to, from, bytes); });
  if (!later) device.synchronizeStream(device.current());
  return dst;
}

at::Tensor copyFromAndResize(const at::Tensor& self, const at::Tensor& dst) {
  if (dst.sizes() != self.sizes()) dst.resize_(self.sizes());
  return copyFrom(self.contiguous(), dst, false);
}

// A kernel's first launch may wait for every stream, also for one that the thread which looks after
// collectives is to let go: it must launch none.
void requireOtherThread(const c10::OperatorHandle& op) {
  char name[16] = {};
  pthread_getname_np(pthread_self(), name, sizeof(name));
  if (std::string(name) == "papilio-device") {
    Device::instance().complain(op.schema().name() + " launched by papilio's thread");
  }
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  requireOtherThread(op);
  at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &emptyStrided);
  m.impl("_copy_from", &copyFrom);
  m.impl("_copy_from_and_resize", &copyFromAndResize);
  m.impl("resize_", &resize);
  m.impl("view", &at::native::view);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
}

// A kernel that has not run when this returns.
void fillLater(const at::Tensor& tensor, double value) {
  auto& device = Device::instance();
  const at::Tensor values = at::full(tensor.sizes(), value, tensor.options().device(at::kCPU));
  device.enqueue(device.current(), "a kernel that writes",
                 {{tensor.data_ptr(), tensor.nbytes(), true}}, [values, to = tensor.data_ptr()] {
                   std::memcpy(to, values.const_data_ptr(), values.nbytes());
                 });
}

// The values that a kernel enqueued now sees, once it has run.
at::Tensor readLater(const at::Tensor& tensor) {
  auto& device = Device::instance();
  at::Tensor out = at::empty(tensor.sizes(), tensor.options().device(at::kCPU));
  device.enqueue(
      device.current(), "a kernel that reads", {{tensor.data_ptr(), tensor.nbytes(), false}},
      [out, from = tensor.data_ptr()] { std::memcpy(out.data_ptr(), from, out.nbytes()); });
  return out;
}

}  // namespace

PYBIND11_MODULE(papilio_fake_device, m) {
  namespace py = pybind11;
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  c10d::cuda::StreamBlockRegistry()->Register("FAKE", [](std::chrono::milliseconds limit) {
    return std::unique_ptr<c10d::cuda::StreamBlock>(new Block(limit));
  });
  py::class_<Gate, std::shared_ptr<Gate>>(m, "Gate").def(
      "open", [](const std::shared_ptr<Gate>& gate) { Device::instance().open(gate); });
  py::class_<StandIn, c10::intrusive_ptr<StandIn>, c10d::Backend>(m, "StandIn")
      .def(py::init<c10::intrusive_ptr<c10d::Backend>>());
  m.def("sums", &StandIn::sums);
  m.def("averages", &averages);
  m.def("signal_at_average", &signalAtAverage);
  m.def("device_memory", [] { return py::capsule(&deviceMemory(), "papilio.DeviceMemory"); });
  m.def("hold", [] { return Device::instance().hold(Device::instance().current()); });
  m.def("fill_later", &fillLater);
  m.def("read_later", &readLater);
  m.def("new_stream", [] { return Device::instance().newStream(); });
  m.def("exchange_stream", [](std::int64_t s) { return Device::instance().exchangeCurrent(s); });
  m.def("current_stream", [] { return Device::instance().current(); });
  m.def("idle", [] { return Device::instance().idle(Device::instance().current()); });
  m.def(
      "synchronize", [] { Device::instance().synchronizeStream(Device::instance().current()); },
      py::call_guard<py::gil_scoped_release>());
  m.def("races", [] { return Device::instance().races(); });
  m.def("uses", [] { return Device::instance().uses(); });
  m.def("set_capturing", [](bool on) { Device::instance().capturing = on; });
}

}  // namespace fake
