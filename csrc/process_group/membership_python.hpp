// The part of papilio._C that papilio/_membership.py uses.
#pragma once

#include <torch/csrc/utils/pybind.h>

#include "process_group/backend.hpp"

namespace papilio::pg {

void bindMembership(
    pybind11::class_<BackendPapilio, c10::intrusive_ptr<BackendPapilio>, c10d::Backend> backend);

}  // namespace papilio::pg
