// The interpreter lock, for code that may be called with or without it.
#pragma once

#include <torch/csrc/utils/pybind.h>

#include <memory>

namespace papilio::pg {

// Gives it up until the end of the scope, if this thread has it. For whoever is about to wait: the
// callback threads may need it to finish what is waited for.
inline std::unique_ptr<pybind11::gil_scoped_release> releaseInterpreter() {
  if (Py_IsInitialized() == 0 || PyGILState_Check() == 0) return nullptr;
  return std::make_unique<pybind11::gil_scoped_release>();
}

}  // namespace papilio::pg
