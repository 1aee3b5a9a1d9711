// Who has the wrong model: majority, tie, first word, force.
#include "fault/schema_votes.hpp"

#include <gtest/gtest.h>

#include <initializer_list>

namespace papilio::fault {
namespace {

constexpr SchemaHash kA{1}, kB{2}, kC{3};

RoundShape shape(std::uint64_t numel) {
  RoundShape out;
  out.numel = numel;
  return out;
}

ContributorSet ranks(std::initializer_list<std::uint32_t> list) {
  ContributorSet out;
  for (const auto r : list) out.insert(Rank{r});
  return out;
}

SchemaVotes votes(std::initializer_list<std::pair<std::uint32_t, SchemaHash>> list) {
  SchemaVotes out;
  for (const auto& [rank, schema] : list) out.add(Rank{rank}, schema, shape(schema.value));
  return out;
}

TEST(SchemaVotes, NotContestedAmongEqals) {
  EXPECT_FALSE(votes({{0, kA}, {1, kA}}).contested());
  EXPECT_TRUE(votes({{0, kA}, {1, kB}}).contested());
}

TEST(SchemaVotes, TheFirstWordCounts) {
  auto v = votes({{0, kA}, {0, kB}});
  EXPECT_EQ(v.of(Rank{0}), kA);
  EXPECT_FALSE(v.contested());
  EXPECT_EQ(v.of(Rank{7}), std::nullopt);
}

TEST(SchemaVotes, MoreThanHalfDecidesEarly) {
  const auto v = votes({{0, kA}, {1, kA}, {2, kA}, {3, kB}});
  const auto decision = v.decide(ContributorSet::firstN(5), false);
  ASSERT_TRUE(decision);
  EXPECT_EQ(decision->winner, kA);
  EXPECT_EQ(decision->winners, ranks({0, 1, 2}));
  EXPECT_EQ(decision->losers, ranks({3}));
}

TEST(SchemaVotes, ALeadIsNoMajority) {
  const auto v = votes({{0, kA}, {1, kA}, {2, kB}});
  EXPECT_FALSE(v.decide(ContributorSet::firstN(6), false));
  const auto forced = v.decide(ContributorSet::firstN(6), true);
  ASSERT_TRUE(forced);
  EXPECT_EQ(forced->winner, kA);
}

TEST(SchemaVotes, ATieHasNoWinner) {
  const auto v = votes({{0, kA}, {1, kB}});
  const auto decision = v.decide(ContributorSet::firstN(2), false);
  ASSERT_TRUE(decision);
  EXPECT_FALSE(decision->winner);
  EXPECT_EQ(decision->losers, ranks({0, 1}));
}

TEST(SchemaVotes, OnlyThePresentCount) {
  const auto v = votes({{0, kA}, {1, kB}, {2, kB}, {3, kC}});
  const auto decision = v.decide(ranks({0, 3}), false);
  ASSERT_TRUE(decision);
  EXPECT_FALSE(decision->winner);
  EXPECT_EQ(v.votersOf(kB), ranks({1, 2}));
  ASSERT_NE(v.shapeOf(kC), nullptr);
  EXPECT_EQ(v.shapeOf(kC)->numel, kC.value);
  EXPECT_EQ(v.shapeOf(SchemaHash{99}), nullptr);
}

}  // namespace
}  // namespace papilio::fault
