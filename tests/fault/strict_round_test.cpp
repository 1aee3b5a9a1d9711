// A strict collective ends in its result or in an error that names the culprit.
#include "fault/strict_round.hpp"

#include <gtest/gtest.h>

namespace papilio::fault {
namespace {

constexpr Seq kSeq{3};
constexpr SchemaHash kSchema{9};

class StrictRoundTest : public testing::Test {
 protected:
  StrictRoundTest() {
    // One phase: a block from everybody, something for everybody.
    spec_.shape.kind = OpKind::allgather;
    spec_.shape.strict = true;
    spec_.shape.numel = 4;
    spec_.phases.push_back({{1, true}, {1, true}, {1, true}});
    spec_.needs_all = true;
  }
  StrictRound make() { return StrictRound(members_, kSeq, kSchema, spec_, Time{100s}); }
  template <class E>
  std::size_t count() const {
    std::size_t n = 0;
    for (const auto& effect : out_) n += std::holds_alternative<E>(effect) ? 1 : 0;
    return n;
  }
  const effect::Finish* finish() const {
    for (const auto& effect : out_) {
      if (const auto* f = std::get_if<effect::Finish>(&effect)) return f;
    }
    return nullptr;
  }
  void die(Rank rank) {
    members_.at(rank).link = Member::Link::gone;
    members_.at(rank).gone_reason = Reason::dead;
  }

  GroupOptions options_;
  Members members_{3, Rank{0}, options_, 1};
  StrictSpec spec_;
  Effects out_;
};

TEST_F(StrictRoundTest, EndsWhenAllDataIsThereAndSent) {
  auto round = make();
  round.start(out_);
  EXPECT_EQ(count<effect::SendControl>(), 2u);  // ENTER
  round.peerEntered(Rank{1}, members_.all(), out_);
  round.peerEntered(Rank{2}, members_.all(), out_);
  EXPECT_EQ(count<effect::SendBlocks>(), 2u);
  round.blockPlaced(Rank{1}, 0, 0, out_);
  EXPECT_EQ(
      round.owing(), ContributorSet::firstN(3) - [] {
        ContributorSet me;
        me.insert(Rank{0});
        return me;
      }());
  round.blockPlaced(Rank{2}, 0, 0, out_);
  EXPECT_EQ(count<effect::RunPhase>(), 1u);
  EXPECT_FALSE(round.ended());
  round.blocksPosted(Rank{1}, 0, out_);
  round.blocksPosted(Rank{2}, 0, out_);
  ASSERT_NE(finish(), nullptr);
  EXPECT_FALSE(finish()->error);
  EXPECT_EQ(finish()->report.outcome, Outcome::complete);
}

TEST_F(StrictRoundTest, RepeatedAndForeignBlocksAreNotWanted) {
  auto round = make();
  round.start(out_);
  EXPECT_TRUE(round.wantsBlock(Rank{1}, 0, 0));
  round.blockPlaced(Rank{1}, 0, 0, out_);
  EXPECT_FALSE(round.wantsBlock(Rank{1}, 0, 0));
  EXPECT_FALSE(round.wantsBlock(Rank{1}, 0, 1));
  EXPECT_FALSE(round.wantsBlock(Rank{1}, 1, 0));
  EXPECT_FALSE(round.wantsBlock(Rank{0}, 0, 0));
  EXPECT_FALSE(round.wantsBlock(Rank{200}, 0, 0));
}

TEST_F(StrictRoundTest, FailsAtOnceWithoutANeededMember) {
  die(Rank{2});
  auto round = make();
  round.start(out_);
  ASSERT_NE(finish(), nullptr);
  EXPECT_EQ(finish()->error.kind, ErrorKind::peer_failed);
  EXPECT_TRUE(finish()->error.ranks.contains(Rank{2}));
  EXPECT_EQ(finish()->error.reason, Reason::dead);
  EXPECT_NE(finish()->error.text.find("rank 2"), std::string::npos);
  EXPECT_EQ(count<effect::SendControl>(), 1u);  // the other survivor hears why
}

TEST_F(StrictRoundTest, ADeathBeforeItsPartNamesTheDead) {
  auto round = make();
  round.start(out_);
  round.peerEntered(Rank{1}, members_.all(), out_);
  round.peerGone(Rank{1}, Reason::dead, out_);
  ASSERT_NE(finish(), nullptr);
  EXPECT_TRUE(finish()->error.ranks.contains(Rank{1}));
  EXPECT_EQ(finish()->report.blamed.at(Rank{1}), Reason::dead);
}

TEST_F(StrictRoundTest, ADeathAfterItsPartDoesNotHurt) {
  auto round = make();
  round.start(out_);
  round.peerEntered(Rank{1}, members_.all(), out_);
  round.blockPlaced(Rank{1}, 0, 0, out_);
  round.peerGone(Rank{1}, Reason::dead, out_);
  EXPECT_FALSE(round.ended());
  round.peerEntered(Rank{2}, members_.all(), out_);
  round.blockPlaced(Rank{2}, 0, 0, out_);
  round.blocksPosted(Rank{2}, 0, out_);
  ASSERT_NE(finish(), nullptr);
  EXPECT_FALSE(finish()->error);
}

// Its data is in the others' sums as well: it counts, and the report says so.
TEST_F(StrictRoundTest, WhoGaveAllAndDiedIsAContributor) {
  auto round = make();
  round.start(out_);
  round.peerEntered(Rank{1}, members_.all(), out_);
  round.peerEntered(Rank{2}, members_.all(), out_);
  round.blockPlaced(Rank{1}, 0, 0, out_);
  die(Rank{1});
  round.peerGone(Rank{1}, Reason::dead, out_);
  round.blockPlaced(Rank{2}, 0, 0, out_);
  round.blocksPosted(Rank{2}, 0, out_);
  const effect::RunPhase* run = nullptr;
  for (const auto& effect : out_) {
    if (const auto* phase = std::get_if<effect::RunPhase>(&effect)) run = phase;
  }
  ASSERT_NE(run, nullptr);
  EXPECT_TRUE(run->members.contains(Rank{1}));
  ASSERT_NE(finish(), nullptr);
  EXPECT_TRUE(finish()->report.chunks[0].contributors.contains(Rank{1}));
  EXPECT_EQ(finish()->report.outcome, Outcome::complete);
}

// Members hear of a death one after the other. Two sums over different sets must not both be
// results.
TEST_F(StrictRoundTest, ASumDoesNotGoOnWithoutAMemberThatOthersCountOn) {
  spec_.shape.kind = OpKind::allreduce;
  spec_.needs_all = false;
  die(Rank{1});
  auto round = make();
  round.start(out_);
  EXPECT_FALSE(round.ended());
  round.peerEntered(Rank{2}, members_.all(), out_);
  ASSERT_NE(finish(), nullptr);
  EXPECT_EQ(finish()->error.kind, ErrorKind::peer_failed);
  EXPECT_TRUE(finish()->error.ranks.contains(Rank{1}));
  EXPECT_EQ(finish()->error.reason, Reason::dead);
  ASSERT_TRUE(round.failure()) << "the answer for whoever enters later";
  EXPECT_TRUE(round.failure()->culprits.contains(Rank{1}));
}

// The other side of it: the peer knows why, this rank does not yet, and must not go on meanwhile.
TEST_F(StrictRoundTest, AMemberThatOthersMissIsNotSummedBeforeTheySayWhy) {
  spec_.shape.kind = OpKind::allreduce;
  spec_.needs_all = false;
  auto round = make();
  round.start(out_);
  round.peerEntered(Rank{1}, members_.all(), out_);
  ContributorSet without = members_.all();
  without.erase(Rank{1});
  out_.clear();
  round.peerEntered(Rank{2}, without, out_);
  EXPECT_EQ(count<effect::SendBlocks>(), 0u) << "laid out for other members";
  round.blockPlaced(Rank{1}, 0, 0, out_);
  round.blockPlaced(Rank{2}, 0, 0, out_);
  round.blocksPosted(Rank{1}, 0, out_);
  EXPECT_EQ(finish(), nullptr);
  ContributorSet culprit;
  culprit.insert(Rank{1});
  round.peerFailedIt(Rank{2}, {kSeq, culprit, static_cast<std::uint8_t>(Reason::dead)}, out_);
  ASSERT_NE(finish(), nullptr);
  EXPECT_EQ(finish()->error.ranks, culprit);
}

TEST_F(StrictRoundTest, ASumOverTheSameMembersGoesOnWithoutTheDead) {
  spec_.shape.kind = OpKind::allreduce;
  spec_.needs_all = false;
  die(Rank{1});
  auto round = make();
  round.start(out_);
  ContributorSet members = members_.all();
  members.erase(Rank{1});
  round.peerEntered(Rank{2}, members, out_);
  round.blockPlaced(Rank{2}, 0, 0, out_);
  round.blocksPosted(Rank{2}, 0, out_);
  ASSERT_NE(finish(), nullptr);
  EXPECT_FALSE(finish()->error);
  EXPECT_EQ(finish()->report.chunks[0].contributors, members);
  EXPECT_EQ(finish()->report.outcome, Outcome::degraded);
}

TEST_F(StrictRoundTest, TheCulpritHearsOfItAndBlamesNobody) {
  auto round = make();
  round.start(out_);
  ContributorSet me;
  me.insert(Rank{0});
  round.peerFailedIt(Rank{2}, {kSeq, me, static_cast<std::uint8_t>(Reason::corrupt)}, out_);
  ASSERT_NE(finish(), nullptr);
  EXPECT_EQ(finish()->error.kind, ErrorKind::peer_failed);
  EXPECT_TRUE(finish()->report.self_suspect);
  EXPECT_TRUE(finish()->report.blamed.empty());
}

// It was told to be out, and answers that it no longer knows this collective.
TEST_F(StrictRoundTest, WhatARankThatIsLeftOutSaysOfItEndsNothing) {
  spec_.needs_all = false;
  die(Rank{1});
  auto round = make();
  round.start(out_);
  ContributorSet me;
  me.insert(Rank{0});
  round.peerFailedIt(Rank{1}, {kSeq, me, static_cast<std::uint8_t>(Reason::slow)}, out_);
  EXPECT_FALSE(round.ended());
}

TEST_F(StrictRoundTest, FailureIsToldToTheCulpritToo) {
  auto round = make();
  round.start(out_);
  out_.clear();
  RoundError error{ErrorKind::peer_failed, {}, Reason::corrupt, "damaged", {}, {}};
  error.ranks.insert(Rank{1});
  round.fail(error, out_);
  EXPECT_EQ(count<effect::SendControl>(), 2u);
  const auto sent = out_.size();
  round.fail(error, out_);  // once
  EXPECT_EQ(out_.size(), sent);
}

// Rank 1 lost rank 2 and can not tell it: this rank does.
TEST_F(StrictRoundTest, TheCulpritHearsOfItFromThoseItStillReaches) {
  auto round = make();
  round.start(out_);
  out_.clear();
  ContributorSet lost;
  lost.insert(Rank{2});
  round.peerFailedIt(Rank{1}, {kSeq, lost, static_cast<std::uint8_t>(Reason::unreachable)}, out_);
  ASSERT_EQ(count<effect::SendControl>(), 1u);
  const auto& told = std::get<effect::SendControl>(out_.front());
  EXPECT_EQ(told.to, Rank{2});
  EXPECT_EQ(std::get<msg::StrictFailed>(told.body).culprits, lost);
}

}  // namespace
}  // namespace papilio::fault
