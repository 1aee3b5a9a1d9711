// Jobs with one incident and the numbers that must come of it: what a freeze or a death may cost,
// and that everything is as before when it is over.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace papilio::sim {

// What was wrong; empty if nothing.
std::vector<std::string> freezeJob(std::uint64_t seed);
std::vector<std::string> killJob(std::uint64_t seed);
// One rank hears nothing from the others for a while, nor they from it, or all of it very late.
std::vector<std::string> cutOffJob(std::uint64_t seed);

}  // namespace papilio::sim
