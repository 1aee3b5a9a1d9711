// The deadlines that follow from patience and timeout, for a reader.
#pragma once

#include <string>

#include "fault/options.hpp"

namespace papilio::engine {

// One line: what rank 0 logs when a group starts, and what the doctor prints.
std::string describeDeadlines(const fault::GroupOptions& options);

}  // namespace papilio::engine
