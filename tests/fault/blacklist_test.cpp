// Terms: back-off, jitter, ceiling, decay, expiry.
#include "fault/blacklist.hpp"

#include <gtest/gtest.h>

#include <set>

namespace papilio::fault {
namespace {

constexpr Time kStart{100s};

void expectNear(Duration term, Duration plain) {
  EXPECT_GE(term, plain * 9 / 10) << toSeconds(term);
  EXPECT_LE(term, plain * 11 / 10) << toSeconds(term);
}

TEST(Blacklist, TermsDoubleUpToAnHour) {
  Blacklist list(30s, 7);
  Time now = kStart;
  Duration plain = 30s;
  for (int i = 0; i < 12; ++i) {
    const Duration term = list.nextTerm(now, Rank{1});
    expectNear(term, std::min<Duration>(plain, Blacklist::kMaxTerm));
    now += term;
    plain *= 2;
  }
}

TEST(Blacklist, OneStepIsForgottenPerCleanTenMinutes) {
  Blacklist list(30s, 7);
  Time now = kStart;
  for (int i = 0; i < 3; ++i) now += list.nextTerm(now, Rank{1});  // next would be 240 s
  expectNear(list.nextTerm(now + 2 * Blacklist::kDecay + 1s, Rank{1}), 60s);
}

TEST(Blacklist, JitterDiffersByRankAndIsReproducible) {
  std::set<Duration> terms;
  for (std::uint32_t r = 0; r < 50; ++r) {
    Blacklist one(30s, 9), other(30s, 9);
    const Duration term = one.nextTerm(kStart, Rank{r});
    EXPECT_EQ(term, other.nextTerm(kStart, Rank{r}));
    terms.insert(term);
  }
  EXPECT_GT(terms.size(), 30u);
}

TEST(Blacklist, ExpiresInTime) {
  Blacklist list(30s, 1);
  list.add(kStart, Rank{2}, Incarnation{5}, Reason::slow, 10s);
  list.add(kStart, Rank{3}, Incarnation{6}, Reason::schema, std::nullopt);
  EXPECT_EQ(list.nextExpiry(), kStart + 10s);
  EXPECT_TRUE(list.expire(kStart + 9s).empty());
  const auto over = list.expire(kStart + 10s);
  ASSERT_EQ(over.size(), 1u);
  EXPECT_EQ(over[0].rank, Rank{2});
  EXPECT_EQ(over[0].incarnation, Incarnation{5});
  EXPECT_FALSE(list.contains(Rank{2}));
  EXPECT_TRUE(list.contains(Rank{3}));
  EXPECT_EQ(list.nextExpiry(), kNever);
  EXPECT_TRUE(list.expire(kStart + 1000h).empty());
}

TEST(Blacklist, AnEndlessEntryIsNotShortened) {
  Blacklist list(30s, 1);
  list.add(kStart, Rank{3}, Incarnation{1}, Reason::schema, std::nullopt);
  EXPECT_EQ(list.add(kStart, Rank{3}, Incarnation{1}, Reason::slow, 5s).reason, Reason::schema);
  EXPECT_TRUE(list.expire(kStart + 10s).empty());
  EXPECT_TRUE(list.remove(Rank{3}));
  EXPECT_FALSE(list.remove(Rank{3}));
}

}  // namespace
}  // namespace papilio::fault
