#include "process_group/capture_mode.hpp"

#include <dlfcn.h>

#include <string>

namespace papilio::pg {

namespace {

constexpr int kRelaxed = 2;  // cudaStreamCaptureModeRelaxed

// In the runtime that torch has loaded: this library is not linked with CUDA, so that one build
// runs with and without it.
void* runtimeSymbol(const char* name) {
  for (const char* major : {"14", "13", "12", "11.0"}) {
    const std::string file = std::string("libcudart.so.") + major;
    if (void* library = dlopen(file.c_str(), RTLD_NOLOAD | RTLD_LAZY)) {
      void* symbol = dlsym(library, name);
      dlclose(library);  // only the count that dlopen added
      if (symbol != nullptr) return symbol;
    }
  }
  return nullptr;
}

}  // namespace

RelaxedCapture::RelaxedCapture(c10::DeviceType type) {
  if (type != c10::DeviceType::CUDA) return;
  exchange_ = reinterpret_cast<Exchange>(runtimeSymbol("cudaThreadExchangeStreamCaptureMode"));
  before_ = kRelaxed;
  if (exchange_ != nullptr) exchange_(&before_);
}

RelaxedCapture::~RelaxedCapture() {
  if (exchange_ != nullptr) exchange_(&before_);
}

}  // namespace papilio::pg
