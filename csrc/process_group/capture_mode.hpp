// A thread that asks for events breaks the graphs that other threads of its process capture, unless
// it has told CUDA that it does not mind theirs. (What torch's watchdog of NCCL does.)
#pragma once

#include <c10/core/DeviceType.h>

namespace papilio::pg {

// For the calling thread, as long as it lives; nothing on devices other than CUDA's.
class RelaxedCapture {
 public:
  explicit RelaxedCapture(c10::DeviceType type);
  ~RelaxedCapture();
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  using Exchange = int (*)(int*);  // cudaThreadExchangeStreamCaptureMode
  Exchange exchange_ = nullptr;
  int before_ = 0;
};

}  // namespace papilio::pg
