// Engine and fault types as plain Python dicts; papilio/_reports.py gives them names.
#pragma once

#include <torch/csrc/utils/pybind.h>

#include "engine/engine.hpp"
#include "process_group/options.hpp"

namespace papilio::pg {

pybind11::dict toDict(const Settings& settings);  // fields of papilio.Options
pybind11::dict toDict(const fault::Report& report);
pybind11::dict toDict(const engine::PeerInfo& peer);
pybind11::dict toDict(const engine::BlacklistInfo& entry);
pybind11::dict toDict(const std::string& group, const fault::Event& event);

}  // namespace papilio::pg
