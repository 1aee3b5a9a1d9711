// Engine and fault types as plain Python dicts; papilio/_reports.py gives them names.
#pragma once

#include <torch/csrc/utils/pybind.h>

#include "engine/engine.hpp"

namespace papilio::pg {

pybind11::dict toDict(const fault::Report& report);
pybind11::dict toDict(const engine::PeerInfo& peer);
pybind11::dict toDict(const engine::BlacklistInfo& entry);
pybind11::dict toDict(const std::string& group, const fault::Event& event);

}  // namespace papilio::pg
