// Golden scenarios: a script of a job and its faults, and below `=== trace` what must come of it.
// The words of the script are listed in scenarios/README.txt.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "sim/world.hpp"

namespace papilio::sim {

struct Scenario {
  std::string script;                 // as in the file, up to the trace
  std::vector<std::string> expected;  // trace lines of the file
};

// Throws std::runtime_error with the line that it does not understand.
Scenario readScenario(const std::string& path);
void writeScenario(const std::string& path, const Scenario& scenario);

// Runs the script with a trace. The world is returned after its last event.
std::unique_ptr<World> play(const Scenario& scenario);
// The lines of the trace that a scenario file shows: entries, control messages as they are sent
// (without PROGRESS), faults, events, returns.
std::vector<std::string> shown(const World& world);

}  // namespace papilio::sim
