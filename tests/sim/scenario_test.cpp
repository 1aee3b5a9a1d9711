// Every file in scenarios/ is one test: play the script, compare with the trace below it.
//   PAPILIO_SIM_UPDATE=1   writes what happened into the files; the differences are printed first
#include "sim/scenario.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>

namespace papilio::sim {
namespace {

std::vector<std::string> files() {
  std::vector<std::string> out;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(PAPILIO_TEST_DATA) + "/scenarios")) {
    if (entry.path().filename() != "README.txt") out.push_back(entry.path().string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

// The first place where they part, with what comes before it.
std::string difference(const std::vector<std::string>& want, const std::vector<std::string>& got) {
  const auto [w, g] = std::mismatch(want.begin(), want.end(), got.begin(), got.end());
  std::string out;
  for (auto it = want.begin() + std::max<std::ptrdiff_t>(0, w - want.begin() - 3); it != w; ++it) {
    out += "  " + *it + "\n";
  }
  for (auto it = w; it != want.end() && it < w + 6; ++it) out += "- " + *it + "\n";
  for (auto it = g; it != got.end() && it < g + 6; ++it) out += "+ " + *it + "\n";
  return out;
}

class Scenarios : public testing::TestWithParam<std::string> {};

TEST_P(Scenarios, GoesAsWritten) {
  Scenario scenario = readScenario(GetParam());
  const auto world = play(scenario);
  for (const auto& violation : world->checker().violations()) ADD_FAILURE() << violation;
  const auto got = shown(*world);
  if (std::getenv("PAPILIO_SIM_UPDATE") != nullptr) {
    if (got == scenario.expected) return;
    std::cout << GetParam() << "\n" << difference(scenario.expected, got);
    scenario.expected = got;
    writeScenario(GetParam(), scenario);
    return;
  }
  EXPECT_EQ(got, scenario.expected)
      << "differs at\n"
      << difference(scenario.expected, got)
      << "if that is right: PAPILIO_SIM_UPDATE=1 sim_test --gtest_filter='*Scenarios*'";
}

INSTANTIATE_TEST_SUITE_P(Files, Scenarios, testing::ValuesIn(files()), [](const auto& file) {
  return std::filesystem::path(file.param).stem().string();
});

TEST(ScenarioFiles, AreAllThere) { EXPECT_GE(files().size(), 19u); }

TEST(ScenarioFiles, NonsenseIsRefused) {
  EXPECT_THROW(play({"ranks 2\nop sum 8\nfrobnicate 1\n", {}}), std::runtime_error);
  EXPECT_THROW(play({"ranks 2\nop sum\n", {}}), std::runtime_error);
}

}  // namespace
}  // namespace papilio::sim
