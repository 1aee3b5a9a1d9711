// Opinions about members: gone, late, blacklisted, routed around.
#include "fault/members.hpp"

#include <gtest/gtest.h>

namespace papilio::fault {
namespace {

ContributorSet only(Rank rank) {
  ContributorSet out;
  out.insert(rank);
  return out;
}

class MembersTest : public testing::Test {
 protected:
  GroupOptions options_;
  Members members_{4, Rank{0}, options_, 1};
  const Time now_{50s};
};

TEST_F(MembersTest, EverybodyIsExpectedAtFirst) {
  EXPECT_EQ(members_.expected(), ContributorSet::firstN(4));
  EXPECT_EQ(members_.present().count(), 4u);
  EXPECT_EQ(members_.reducerFor(Rank{2}, Seq{1}), Rank{2});
}

TEST_F(MembersTest, TheDeadAreReplacedInRingOrder) {
  members_.at(Rank{2}).link = Member::Link::gone;
  members_.at(Rank{2}).gone_reason = Reason::dead;
  EXPECT_TRUE(members_.gone(Rank{2}));
  EXPECT_EQ(members_.blameFor(Rank{2}), Reason::dead);
  EXPECT_EQ(members_.state(Rank{2}), PeerState::dead);
  EXPECT_EQ(members_.reducerFor(Rank{2}, Seq{1}), Rank{3});
  EXPECT_EQ(members_.ringDistance(Rank{3}, Rank{1}), 2);
  members_.at(Rank{3}).link = Member::Link::gone;
  members_.at(Rank{3}).gone_reason = Reason::left;
  EXPECT_EQ(members_.reducerFor(Rank{2}, Seq{1}), Rank{0});
  EXPECT_EQ(members_.state(Rank{3}), PeerState::left);
}

// After a freeze, rank 1 works through old rounds and asks rank 3 for one that rank 3 has left long
// ago; rank 3 waits for rank 1 in the newest. The chain ends at rank 1, not at rank 3 itself.
TEST_F(MembersTest, WhoWaitsForAStragglerIsHeldByItWhateverTheStragglerAsksFor) {
  members_.missed(Time{}, Rank{1}, false);
  members_.noteWaits(now_, Rank{3}, Seq{309}, only(Rank{1}));
  members_.noteWaits(now_, Rank{1}, Seq{230}, only(Rank{3}));
  EXPECT_EQ(members_.heldBy(now_, Rank{3}, Seq{310}, only(Rank{3})), only(Rank{1}));
  EXPECT_EQ(members_.rootsOf(now_, only(Rank{3}), Seq{310}), only(Rank{1}));
}

// Between it and the owner are only the dead: nobody else can think that the shard is his.
TEST_F(MembersTest, ASuspicionIsNoCertainDuty) {
  EXPECT_TRUE(members_.reducesForSure(members_.me()));
  for (std::uint32_t r = members_.me().value + 1; r < members_.size(); ++r) {
    EXPECT_FALSE(members_.reducesForSure(Rank{r}));
  }
  const Rank last{members_.size() - 1};
  members_.routeAround(last, Seq{1});
  EXPECT_FALSE(members_.reducesForSure(last));
  members_.at(last).link = Member::Link::gone;
  members_.at(last).gone_reason = Reason::dead;
  EXPECT_TRUE(members_.reducesForSure(last));
}

// A word that was taken back holds nobody up any more, and a word about another round is another
// one.
TEST_F(MembersTest, WhoWaitsNoLongerIsHeldByNobody) {
  members_.missed(Time{}, Rank{1}, false);
  members_.noteWaits(now_, Rank{3}, Seq{5}, only(Rank{1}));
  members_.noteWaits(now_, Rank{3}, Seq{4}, {});
  EXPECT_EQ(members_.heldBy(now_, Rank{3}, Seq{6}, only(Rank{3})), only(Rank{1}));
  members_.noteWaits(now_, Rank{3}, Seq{5}, {});
  EXPECT_FALSE(members_.heldBy(now_, Rank{3}, Seq{6}, only(Rank{3})));
  members_.noteWaits(now_, Rank{3}, Seq{7}, only(Rank{1}));  // the next one is heard at once
  EXPECT_EQ(members_.heldBy(now_, Rank{3}, Seq{8}, only(Rank{3})), only(Rank{1}));
}

TEST_F(MembersTest, AWrongModelIsGoneButSlownessIsNot) {
  auto& blacklist = members_.blacklist();
  blacklist.add(now_, Rank{1}, Incarnation{1}, Reason::schema, std::nullopt);
  blacklist.add(now_, Rank{2}, Incarnation{1}, Reason::slow, 10s);
  EXPECT_TRUE(members_.gone(Rank{1}));
  EXPECT_FALSE(members_.gone(Rank{2}));
  EXPECT_FALSE(members_.counts(Rank{2}));
  EXPECT_TRUE(members_.mayReduce(Rank{2}, Seq{1}));  // its process works
  EXPECT_EQ(members_.blameFor(Rank{1}), Reason::schema);
  EXPECT_EQ(members_.blameFor(Rank{2}), Reason::blacklisted);
  // When its process has ended as well, it is still the model.
  members_.at(Rank{1}).link = Member::Link::gone;
  members_.at(Rank{1}).gone_reason = Reason::unreachable;
  EXPECT_EQ(members_.blameFor(Rank{1}), Reason::schema);
}

TEST_F(MembersTest, TheLagIsTheMeanOfTheLastFew) {
  members_.recordLag(Rank{1}, 40ms);
  EXPECT_DOUBLE_EQ(members_.at(Rank{1}).lag, 0.040);  // known from the first round on
  members_.recordLag(Rank{1}, 60ms);
  EXPECT_DOUBLE_EQ(members_.at(Rank{1}).lag, 0.050);
  for (int i = 0; i < 60; ++i) members_.recordLag(Rank{1}, 10ms);
  EXPECT_NEAR(members_.at(Rank{1}).lag, 0.010, 1e-4);
  members_.recordLag(Rank{2}, -5ms);  // ahead of the median
  EXPECT_EQ(members_.at(Rank{2}).lag, 0);
}

// Each round takes rank 1 300 ms longer than the others, who do not wait for it.
TEST_F(MembersTest, FallingBehindIsNotAGrowingLag) {
  members_.recordLateness(Rank{1}, Seq{5}, 300ms);
  members_.recordLateness(Rank{1}, Seq{6}, 600ms);
  members_.recordLateness(Rank{1}, Seq{9}, 1500ms);
  EXPECT_DOUBLE_EQ(members_.at(Rank{1}).lag, 0.300);
  members_.recordLag(Rank{1}, 300ms);  // waited for again: behind by what that round took alone
  members_.recordLateness(Rank{1}, Seq{20}, 300ms);
  EXPECT_DOUBLE_EQ(members_.at(Rank{1}).lag, 0.300);
}

TEST_F(MembersTest, ThreeStrikesInTenRounds) {
  EXPECT_FALSE(members_.missed(Time{}, Rank{1}, true));
  EXPECT_FALSE(members_.expected().contains(Rank{1}));
  members_.caughtUp(Rank{1});
  EXPECT_TRUE(members_.expected().contains(Rank{1}));
  EXPECT_FALSE(members_.missed(Time{}, Rank{1}, true));
  EXPECT_TRUE(members_.missed(Time{}, Rank{1}, true));
}

TEST_F(MembersTest, OldAndSoftMissesDoNotAddUp) {
  for (int i = 0; i < 20; ++i) {
    EXPECT_FALSE(members_.missed(Time{}, Rank{1}, false));
    EXPECT_FALSE(members_.missed(Time{}, Rank{2}, true));
    for (int round = 0; round < 6; ++round) members_.judged(Rank{2});
  }
}

TEST_F(MembersTest, CatchUpIsGrantedOncePerIncident) {
  members_.startCatchUp(now_, Rank{1}, 5s);
  EXPECT_EQ(members_.at(Rank{1}).pace, Member::Pace::timely);  // it was not late
  members_.missed(Time{}, Rank{1}, false);
  members_.startCatchUp(now_, Rank{1}, 5s);
  EXPECT_EQ(members_.at(Rank{1}).pace, Member::Pace::catching_up);
  members_.missed(Time{}, Rank{1}, false);
  members_.startCatchUp(now_, Rank{1}, 5s);
  EXPECT_EQ(members_.at(Rank{1}).pace, Member::Pace::late);
  for (int i = 0; i < 10; ++i) members_.caughtUp(Rank{1});
  members_.missed(Time{}, Rank{1}, false);
  members_.startCatchUp(now_, Rank{1}, 5s);
  EXPECT_EQ(members_.at(Rank{1}).pace, Member::Pace::catching_up);
}

TEST_F(MembersTest, RoutedAroundFromARoundToARound) {
  using Routed = Members::Routed;
  EXPECT_EQ(members_.routeAround(Rank{1}, Seq{10}), Routed::news);
  EXPECT_EQ(members_.routeAround(Rank{1}, Seq{8}), Routed::earlier);  // the others must hear of it
  EXPECT_EQ(members_.routeAround(Rank{1}, Seq{9}), Routed::known);
  EXPECT_TRUE(members_.mayReduce(Rank{1}, Seq{7}));  // older rounds are still its own
  EXPECT_FALSE(members_.mayReduce(Rank{1}, Seq{8}));
  members_.reinstate(Rank{1}, Seq{20});
  EXPECT_FALSE(members_.mayReduce(Rank{1}, Seq{19}));
  EXPECT_TRUE(members_.mayReduce(Rank{1}, Seq{20}));
  members_.at(Rank{1}).link = Member::Link::up;
  EXPECT_EQ(members_.state(Rank{1}), PeerState::suspect);
  members_.entered(Seq{20});
  EXPECT_FALSE(members_.at(Rank{1}).routed_around);
}

}  // namespace
}  // namespace papilio::fault
