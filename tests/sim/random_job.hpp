// Random jobs with random faults, both from one seed.
#pragma once

#include <memory>
#include <string>

#include "sim/world.hpp"

namespace papilio::sim {

struct RandomJob {
  std::unique_ptr<World> world;
  std::string faults;         // what will be done to whom, for people
  std::uint64_t rounds = 0;   // collectives in the job
  std::uint64_t planned = 0;  // faults whose trigger must come
};

enum class Trouble { none, some };
// Does every rank have a host of its own, or do some share one, and combine their data there first?
enum class Places { own, shared };

RandomJob randomJob(std::uint64_t seed, Trouble trouble, bool tracing, Places places = Places::own);

}  // namespace papilio::sim
