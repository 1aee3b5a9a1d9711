// How long a round waits: patience at first, then what the group taught it, never more.
#include "fault/arrival.hpp"

#include <gtest/gtest.h>

namespace papilio::fault {
namespace {

ArrivalPolicy taught(Duration patience, Duration lag, int samples = 300) {
  ArrivalPolicy policy(patience);
  for (std::uint32_t i = 0; i < ArrivalPolicy::kProfileRounds; ++i) policy.addCleanRound();
  for (int i = 0; i < samples; ++i) policy.addLag(lag);
  return policy;
}

TEST(Arrival, PatienceUntilTaught) {
  ArrivalPolicy policy(5s);
  for (int i = 0; i < 300; ++i) policy.addLag(1ms);
  EXPECT_EQ(policy.budget(), 5s);
  for (std::uint32_t i = 0; i < ArrivalPolicy::kProfileRounds; ++i) policy.addCleanRound();
  EXPECT_EQ(policy.budget(), ArrivalPolicy::kFloor);
}

TEST(Arrival, ThreeTimesTheUsualLagWithinBounds) {
  EXPECT_EQ(taught(60s, 2s).budget(), 6s);
  EXPECT_EQ(taught(5s, 4s).budget(), 5s);
  EXPECT_EQ(taught(5s, 1ms).budget(), ArrivalPolicy::kFloor);
  EXPECT_EQ(taught(200ms, 1ms).budget(), 200ms);  // the floor gives way to patience
  EXPECT_EQ(taught(5s, -3s).budget(), ArrivalPolicy::kFloor);
}

TEST(Arrival, AFewOutliersBuyNoPatience) {
  auto policy = taught(60s, 500ms);
  for (int i = 0; i < 5; ++i) policy.addLag(50s);
  EXPECT_EQ(policy.budget(), 1500ms);
}

TEST(Arrival, OldLagsAreForgotten) {
  auto policy = taught(60s, 10s);
  for (int i = 0; i < 256; ++i) policy.addLag(500ms);
  EXPECT_EQ(policy.budget(), 1500ms);
}

TEST(Arrival, ARankThatMayStillStartUpGetsLonger) {
  EXPECT_EQ(ArrivalPolicy(5s).firstBudget(), ArrivalPolicy::kStartup);
  EXPECT_EQ(ArrivalPolicy(90s).firstBudget(), 90s);
}

}  // namespace
}  // namespace papilio::fault
