#include "engine/deadlines.hpp"

#include <algorithm>
#include <array>
#include <cstdio>

#include "fault/arrival.hpp"
#include "fault/contribution.hpp"

namespace papilio::engine {

std::string describeDeadlines(const fault::GroupOptions& options) {
  using Policy = fault::ArrivalPolicy;
  const auto seconds = [](Duration value) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%g s", toSeconds(value));
    return std::string(text.data());
  };
  const Policy policy(options.patience);
  return "deadlines: a contribution " + seconds(std::min(Policy::kFloor, options.patience)) +
         " to " + seconds(options.patience) +
         " after the median member's, adapting (the first one " + seconds(policy.firstBudget()) +
         "), a result " + seconds(fault::Contribution::kResultMargin) + " later, each fetch " +
         seconds(fault::Contribution::kFetchBudget) + ", a strict collective " +
         seconds(options.timeout);
}

}  // namespace papilio::engine
