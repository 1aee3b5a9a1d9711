// A broadcast goes on without its root: from whoever has the data, else with the tensor of the
// lowest live rank, and only when nobody can have another one.
#include "fault/tolerant_broadcast.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>

namespace papilio::fault {
namespace {

constexpr Seq kSeq{3};

ContributorSet ranks(std::initializer_list<std::uint32_t> list) {
  ContributorSet out;
  for (const auto r : list) out.insert(Rank{r});
  return out;
}

class TolerantBroadcastTest : public testing::Test {
 protected:
  // Four ranks, root 0, two blocks, seen by `me`.
  void make(std::uint32_t me) {
    members_.emplace(4, Rank{me}, options_, 1);
    for (std::uint32_t r = 0; r < 4; ++r) members_->at(Rank{r}).link = Member::Link::up;
    StrictSpec spec;
    spec.shape.kind = OpKind::broadcast;
    spec.shape.numel = 8;
    spec.nbytes = 32;
    spec.phases.resize(2);
    for (auto& phase : spec.phases) phase.assign(4, {me == 0 ? 0u : 2u, true});
    round_.emplace(*members_, kSeq, SchemaHash{9}, spec, Time{100s});
    round_->start(out_);
    for (std::uint32_t r = 0; r < 4; ++r) {
      if (r != me) round_->peerEntered(Rank{r}, members_->all(), out_);
    }
    out_.clear();
  }
  void dies(std::uint32_t rank) {
    members_->at(Rank{rank}).link = Member::Link::gone;
    members_->at(Rank{rank}).gone_reason = Reason::dead;
    round_->peerGone(Rank{rank}, Reason::dead, out_);
  }
  void gives(std::uint32_t rank, std::uint16_t phase, std::uint32_t blocks = 2) {
    for (std::uint32_t b = 0; b < blocks; ++b) round_->blockPlaced(Rank{rank}, phase, b, out_);
  }
  void says(std::uint32_t rank, Holding holding, const ContributorSet& about = {}) {
    round_->handover(Rank{rank}, {kSeq, holding, about}, out_);
  }
  // To whom this was said since the last call.
  ContributorSet told(Holding holding) const {
    ContributorSet out;
    for (const auto& effect : out_) {
      const auto* control = std::get_if<effect::SendControl>(&effect);
      const auto* said = control ? std::get_if<msg::Handover>(&control->body) : nullptr;
      if (said != nullptr && said->holding == holding) out.insert(control->to);
    }
    return out;
  }
  ContributorSet served() const {
    ContributorSet out;
    for (const auto& effect : out_) {
      if (const auto* blocks = std::get_if<effect::SendBlocks>(&effect)) out.insert(blocks->to);
    }
    return out;
  }
  bool copied() const {
    return std::any_of(out_.begin(), out_.end(), [](const auto& effect) {
      return std::holds_alternative<effect::RunPhase>(effect);
    });
  }
  const effect::Finish* finish() const {
    for (const auto& effect : out_) {
      if (const auto* f = std::get_if<effect::Finish>(&effect)) return f;
    }
    return nullptr;
  }
  const ReportChunk& chunk() const { return finish()->report.chunks.at(0); }

  GroupOptions options_;
  std::optional<Members> members_;
  std::optional<TolerantBroadcast> round_;
  Effects out_;
};

TEST_F(TolerantBroadcastTest, NobodyReturnsBeforeEverybodyHasIt) {
  make(1);
  gives(0, 0);
  EXPECT_EQ(told(Holding::has), ranks({0, 2, 3}));
  says(0, Holding::has, ranks({0}));
  says(2, Holding::has, ranks({0}));
  EXPECT_EQ(finish(), nullptr);
  EXPECT_FALSE(copied());
  EXPECT_EQ(round_->owing(), ranks({3}));
  says(3, Holding::has, ranks({0}));
  ASSERT_NE(finish(), nullptr);
  EXPECT_FALSE(finish()->error);
  EXPECT_TRUE(copied());
  EXPECT_EQ(finish()->report.outcome, Outcome::complete);
  EXPECT_EQ(chunk().source, Source::reduced);
  EXPECT_EQ(round_->standIn(), std::nullopt);
}

TEST_F(TolerantBroadcastTest, WhoHasTheDataHandsItOnAfterTheRootDied) {
  make(1);
  gives(0, 0);
  out_.clear();
  dies(0);
  says(2, Holding::wants);
  EXPECT_EQ(served(), ranks({2}));
  out_.clear();
  says(2, Holding::wants);
  EXPECT_TRUE(served().empty());  // once
  round_->blocksPosted(Rank{2}, TolerantBroadcast::kReceived, out_);
  says(2, Holding::has, ranks({0}));
  says(3, Holding::has, ranks({0}));
  ASSERT_NE(finish(), nullptr);
  EXPECT_EQ(chunk().source, Source::reduced);
  EXPECT_EQ(chunk().contributors, ranks({1, 2, 3}));
  EXPECT_EQ(finish()->report.blamed.at(Rank{0}), Reason::dead);
}

TEST_F(TolerantBroadcastTest, WhoLacksItAsksTheOneThatHasIt) {
  make(1);
  gives(0, 0, 1);
  dies(0);
  EXPECT_EQ(told(Holding::lacks), ranks({2, 3}));
  EXPECT_FALSE(round_->wantsBlock(Rank{0}, 0, 1));  // nothing more of the dead root
  says(2, Holding::lacks, ranks({0}));
  says(3, Holding::has, ranks({0}));
  EXPECT_EQ(told(Holding::wants), ranks({3}));
  EXPECT_TRUE(round_->wantsBlock(Rank{3}, 0, 0));  // all over again
  EXPECT_FALSE(round_->wantsBlock(Rank{2}, 0, 0));
  gives(3, 0);
  says(2, Holding::has, ranks({0}));
  ASSERT_NE(finish(), nullptr);
  EXPECT_TRUE(copied());
  EXPECT_EQ(chunk().source, Source::fetched);
}

TEST_F(TolerantBroadcastTest, TheLowestLiveRankStandsInWhenNobodyHasIt) {
  make(1);
  dies(0);
  says(2, Holding::lacks, ranks({0}));
  EXPECT_TRUE(told(Holding::has).empty());
  says(3, Holding::lacks, ranks({0}));
  EXPECT_EQ(told(Holding::has), ranks({2, 3}));
  says(2, Holding::wants);
  says(3, Holding::wants);
  round_->blocksPosted(Rank{2}, TolerantBroadcast::kOwn, out_);
  round_->blocksPosted(Rank{3}, TolerantBroadcast::kOwn, out_);
  says(2, Holding::has, ranks({1}));
  says(3, Holding::has, ranks({1}));
  ASSERT_NE(finish(), nullptr);
  EXPECT_FALSE(copied());  // its own tensor stays
  EXPECT_EQ(chunk().source, Source::redone);
  EXPECT_EQ(chunk().contributors, ranks({1}));
  EXPECT_EQ(round_->standIn(), Rank{1});
  EXPECT_EQ(finish()->report.outcome, Outcome::degraded);
}

// Rank 3 said LACKS about the root alone; meanwhile it may have got everything from rank 1.
TEST_F(TolerantBroadcastTest, AnOldLacksDoesNotLetTheNextOneStandIn) {
  make(2);
  dies(0);
  says(3, Holding::lacks, ranks({0}));
  says(1, Holding::has, ranks({1}));
  out_.clear();
  dies(1);
  EXPECT_TRUE(told(Holding::has).empty());
  EXPECT_EQ(told(Holding::lacks), ranks({3}));
  says(3, Holding::has, ranks({1}));
  EXPECT_EQ(told(Holding::wants), ranks({3}));
  gives(3, 0);
  ASSERT_NE(finish(), nullptr);
  EXPECT_EQ(chunk().source, Source::redone);
  EXPECT_EQ(chunk().contributors, ranks({1}));
}

TEST_F(TolerantBroadcastTest, AHigherRankDoesNotStandIn) {
  make(2);
  dies(0);
  says(1, Holding::lacks, ranks({0}));
  says(3, Holding::lacks, ranks({0}));
  EXPECT_TRUE(told(Holding::has).empty());
  says(1, Holding::has, ranks({1}));
  EXPECT_EQ(told(Holding::wants), ranks({1}));
  gives(1, TolerantBroadcast::kOwn);
  EXPECT_EQ(told(Holding::has), ranks({1, 3}));
}

TEST_F(TolerantBroadcastTest, TheLastOneKeepsItsOwn) {
  make(3);
  dies(0);
  dies(2);
  dies(1);
  ASSERT_NE(finish(), nullptr);
  EXPECT_FALSE(finish()->error);
  EXPECT_EQ(round_->standIn(), Rank{3});
}

TEST_F(TolerantBroadcastTest, ADeathOfAnotherDoesNotHurt) {
  make(0);
  says(1, Holding::has, ranks({0}));
  for (const std::uint32_t r : {1u, 2u}) round_->blocksPosted(Rank{r}, 0, out_);
  says(2, Holding::has, ranks({0}));
  dies(3);
  ASSERT_NE(finish(), nullptr);
  EXPECT_FALSE(finish()->error);
  EXPECT_EQ(finish()->report.blamed.at(Rank{3}), Reason::dead);
}

TEST_F(TolerantBroadcastTest, WhoGivesUpAloneIsGoneFromThisOneOnly) {
  make(1);
  gives(0, 0);
  round_->peerFailedIt(Rank{3}, {kSeq, ranks({3}), 0}, out_);
  EXPECT_EQ(finish(), nullptr);
  says(0, Holding::has, ranks({0}));
  says(2, Holding::has, ranks({0}));
  ASSERT_NE(finish(), nullptr);
  EXPECT_FALSE(finish()->error);
  EXPECT_EQ(finish()->report.blamed.at(Rank{3}), Reason::left);
}

TEST_F(TolerantBroadcastTest, AFailureIsToldOn) {
  make(1);
  const auto reason = static_cast<std::uint8_t>(Reason::corrupt);
  round_->peerFailedIt(Rank{3}, {kSeq, ranks({0}), reason}, out_);
  ASSERT_NE(finish(), nullptr);
  EXPECT_EQ(finish()->error.kind, ErrorKind::peer_failed);
  EXPECT_EQ(finish()->error.ranks, ranks({0}));
  EXPECT_FALSE(copied());
  ContributorSet told_on;
  for (const auto& effect : out_) {
    const auto* control = std::get_if<effect::SendControl>(&effect);
    if (control && std::holds_alternative<msg::StrictFailed>(control->body)) {
      told_on.insert(control->to);
    }
  }
  EXPECT_EQ(told_on, ranks({0, 2}));
}

// The root is dead; ranks 1 and 2 lost each other, so neither may stand in. Rank 3 waits for them
// alone, and they do not wait for rank 3.
TEST_F(TolerantBroadcastTest, WhoDoesNotAgreeOnTheDeadIsWaitedForAndNobodyElse) {
  make(3);
  dies(0);
  says(1, Holding::lacks, ranks({0}));
  says(2, Holding::lacks, ranks({0}));
  EXPECT_EQ(round_->owing(), ranks({1, 2}));
  says(1, Holding::lacks, ranks({0, 2}));
  says(2, Holding::lacks, ranks({0, 1}));
  EXPECT_EQ(round_->owing(), ranks({1, 2}));
  make(2);
  dies(0);
  dies(1);
  says(3, Holding::lacks, ranks({0}));
  EXPECT_EQ(round_->owing(), ranks({1}));
}

}  // namespace
}  // namespace papilio::fault
