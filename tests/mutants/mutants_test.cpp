// Would the simulator notice if a rule of the protocol did not hold? Each rule is switched off
// (PAPILIO_MUTANT in csrc/fault), and jobs run until one of them breaks a promise.
//   PAPILIO_MUTANT_RUNS=20000   most jobs per rule; a rule that none of them misses is a survivor
//   PAPILIO_MUTANT_ONLY=weights one rule alone
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "fault/mutant.hpp"
#include "mutants/incident.hpp"
#include "sim/random_job.hpp"

namespace papilio::sim {
namespace {

constexpr std::uint64_t kFirstSeed = 1'000'000;

// Noticed within a few dozen jobs: in every run of the tests.
const std::vector<const char*> kQuick{
    "damage_dropped",
    "dead_reducer_passed_over",
    "exclude_after_deadline",
    "fetch_has_a_limit",
    "late_contribution_dropped",
    "no_hearsay_of_hearsay",
    "reinstate_announced",
    "results_kept",
    "schema_majority",
    "settled",
    "stale_dropped",
    "sticky_lateness",
    "strict_failure_told",
    "weights",
};
// Need more jobs, or are not noticed yet: `make mutants` alone, which says which is which.
const std::vector<const char*> kLong{
    "all_have_it",
    "blacklisted_not_counted",
    "counted_once",
    "dead_leader_passed_over",
    "silent_leader_replaced",
    "call_has_a_limit",
    "credits_excuse",
    "doubted_accuses_nobody",
    "damage_is_answered",
    "duplicate_dropped",
    "isolated_accuses_nobody",
    "progress_is_life",
    "result_says_who_is_to_blame",
    "results_have_a_limit",
    "self_suspect",
    "stand_in_needs_lacks",
    "suspects_are_not_waited_for",
    "strict_members_agree",
    "verdict_ends_the_vote",
    "vote_holds_open",
    "waiting_excuses",
    "word_of_an_end",
};

std::vector<const char*> rules() {
  auto out = kQuick;
  if (std::getenv("PAPILIO_MUTANT_RUNS") != nullptr) {
    out.insert(out.end(), kLong.begin(), kLong.end());
  }
  return out;
}

std::uint64_t mostRuns() {
  const char* text = std::getenv("PAPILIO_MUTANT_RUNS");
  return text == nullptr ? 400 : std::strtoull(text, nullptr, 10);
}

struct Verdict {
  std::string job;  // that noticed it
  std::uint64_t runs = 0;
  std::string violation;
};

// The first violation of one job; empty if there is none. Jobs of every kind take turns.
std::string play(std::uint64_t run, std::string& job) {
  std::vector<std::string> violations;
  if (run % 8 == 0) {
    job = "freeze " + std::to_string(run);
    violations = freezeJob(run);
  } else if (run % 8 == 4) {
    job = "kill " + std::to_string(run);
    violations = killJob(run);
  } else if (run % 8 == 6) {
    job = "cut off " + std::to_string(run);
    violations = cutOffJob(run);
  } else {
    const std::uint64_t seed = kFirstSeed + run;
    const bool shared = run % 4 == 1;
    job = "random " + std::to_string(seed) + (shared ? " on shared hosts" : "");
    RandomJob random = randomJob(seed, Trouble::some, false, shared ? Places::shared : Places::own);
    random.world->run(300'000);
    violations = random.world->checker().violations();
  }
  return violations.empty() ? "" : violations.front();
}

Verdict hunt(const char* rule, std::uint64_t most) {
  Verdict out;
  while (out.runs < most && out.violation.empty()) {
    fault::mutant = rule;
    out.violation = play(out.runs, out.job);
    fault::mutant = {};
    // A job that breaks a promise with all rules on says nothing about this one.
    const bool always = !out.violation.empty() && *rule != '\0' && !play(out.runs, out.job).empty();
    if (always) out.violation.clear();
    ++out.runs;
  }
  return out;
}

TEST(Mutants, NoneWithoutAMutation) {
  const auto verdict = hunt("", 400);
  EXPECT_EQ(verdict.violation, "") << verdict.job;
}

class Mutants : public testing::TestWithParam<const char*> {};

TEST_P(Mutants, IsNoticed) {
  const char* only = std::getenv("PAPILIO_MUTANT_ONLY");
  if (only != nullptr && std::string_view(only) != GetParam()) return;
  const auto verdict = hunt(GetParam(), mostRuns());
  const bool killed = !verdict.violation.empty();
  std::cout << "rule " << GetParam() << ": "
            << (killed ? "killed by " + verdict.job : std::string("SURVIVED")) << " after "
            << verdict.runs << " runs" << (killed ? ": " + verdict.violation : "") << "\n";
  EXPECT_TRUE(killed) << "nothing notices that this rule does not hold";
}

INSTANTIATE_TEST_SUITE_P(Rules, Mutants, testing::ValuesIn(rules()),
                         [](const auto& rule) { return std::string(rule.param); });

}  // namespace
}  // namespace papilio::sim
