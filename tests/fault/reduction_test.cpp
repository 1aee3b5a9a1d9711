// The reducer's side of a round: whom it waits for, when it closes, what it says about it.
#include "fault/reduction_fixture.hpp"

namespace papilio::fault {
namespace {

// Nobody has spent credits.
const Reduction::CreditsSpent kFree = [](Rank, Rank) { return false; };

class ReductionTest : public ReductionFixture {
 protected:
  ReductionTest() : ReductionFixture(3) { begin(); }
  void arrive(std::uint32_t rank, Duration at, float weight = 1) {
    reduction_->arrived(Time{} + at, Rank{rank}, kChunk, weight);
    reduction_->closeReady(out_);
  }
};

TEST_F(ReductionTest, ClosesWhenEverybodyIsThere) {
  arrive(0, 10s);
  arrive(2, 10s);
  EXPECT_EQ(closed(), nullptr);
  EXPECT_EQ(reduction_->waitingFor(), ranks({1}));
  arrive(1, 11s);
  ASSERT_NE(closed(), nullptr);
  EXPECT_EQ(closed()->contributors, ranks({0, 1, 2}));
}

// Without a median: those who contributed before may have stopped, who never did may still start
// up.
TEST_F(ReductionTest, ALoneMemberDoesNotWaitForever) {
  members_.at(Rank{2}).ever_contributed = false;
  arrive(0, 10s);
  EXPECT_EQ(reduction_->due().any, Time{10s} + Reduction::kProgressEvery);
  EXPECT_TRUE(reduction_->expire(Time{10s} + policy_.aloneBudget() - 1ms, kFree).empty());
  EXPECT_EQ(reduction_->expire(Time{10s} + policy_.aloneBudget(), kFree), ranks({1}));
  EXPECT_EQ(reduction_->waitingFor(), ranks({2}));
  EXPECT_TRUE(reduction_->expire(Time{1000s}, kFree).empty());
}

// What starts the clock is data for a chunk on duty here, not the entry of the local rank: its own
// chunk may have been reduced elsewhere long before anybody contributes to it here.
TEST_F(ReductionTest, AloneTheClockStartsWithTheFirstContribution) {
  Members five(5, Rank{0}, options_, 1);
  for (std::uint32_t r = 0; r < 5; ++r) five.at(Rank{r}).ever_contributed = true;
  std::uint64_t seq = 1;
  while (Layout(10, 4, 5, Seq{seq}).owner(kChunk) != Rank{0}) ++seq;
  Reduction reduction(five, policy_, Seq{seq}, SchemaHash{5}, shape_);
  reduction.showed(Time{10s}, Rank{0});
  reduction.withdraw(Rank{0});
  EXPECT_EQ(reduction.due().any, kNever);
  reduction.arrived(Time{100s}, Rank{1}, kChunk, 1);
  EXPECT_TRUE(reduction.expire(Time{100s} + policy_.aloneBudget() - 1ms, kFree).empty());
  EXPECT_EQ(reduction.expire(Time{100s} + policy_.aloneBudget(), kFree), ranks({2, 3, 4}));
}

TEST_F(ReductionTest, TheMedianStartsTheClock) {
  arrive(0, 10s);  // one of three: nobody is late yet
  EXPECT_TRUE(reduction_->expire(Time{12s}, kFree).empty());
  arrive(1, 100s);
  EXPECT_TRUE(reduction_->expire(Time{100s + 999ms}, kFree).empty());
  EXPECT_EQ(reduction_->expire(Time{101s}, kFree), ranks({2}));
  reduction_->closeReady(out_);
  ASSERT_NE(closed(), nullptr);
  EXPECT_EQ(closed()->contributors, ranks({0, 1}));
}

// Rank 2 gave as many chunks as it has credits for, and they wait for rank 1: what it can not send
// is not its fault, also where both deadlines have passed when the timer comes.
TEST_F(ReductionTest, WhoseCreditsAreSpentOnOpenChunksIsNotLate) {
  shape_.numel = 2'000'000;
  Reduction reduction(members_, policy_, Seq{1}, SchemaHash{5}, shape_);
  std::vector<ChunkIndex> mine;
  for (std::uint32_t c = 0; c < reduction.layout().chunkCount(); ++c) {
    if (reduction.layout().owner(ChunkIndex{c}) == Rank{0}) mine.push_back(ChunkIndex{c});
  }
  ASSERT_GT(mine.size(), kCreditsPerShard);
  for (const auto chunk : mine) reduction.arrived(Time{10s}, Rank{0}, chunk, 1);
  for (std::uint32_t c = 0; c < kCreditsPerShard; ++c) {
    reduction.arrived(Time{10s}, Rank{2}, mine[c], 1);
  }
  const auto spent = [&](Rank rank, Rank owner) {
    return reduction.openFrom(rank, owner) >= kCreditsPerShard;
  };
  EXPECT_EQ(reduction.expire(Time{12s}, spent), ranks({1}));
  EXPECT_TRUE(reduction.expire(Time{12s}, spent).empty()) << "not decided again at once";
  reduction.closeReady(out_);
  for (std::uint32_t c = 0; c < kCreditsPerShard; ++c) {
    reduction.reduced(Time{12s}, mine[c], ranks({0, 2}), true, out_);
  }
  EXPECT_TRUE(reduction.expire(Time{13s} - 1ms, spent).empty());
  EXPECT_EQ(reduction.expire(Time{13s}, spent), ranks({2})) << "it has its credits back";
}

TEST_F(ReductionTest, TheWeightIsThatOfWhatWentIn) {
  arrive(0, 10s, 2);
  arrive(1, 10s, 3);
  arrive(2, 10s, 5);
  reduction_->reduced(Time{10s}, kChunk, ranks({0, 2}), true, out_);  // rank 1 had a NaN
  const auto* result = reduction_->result(kChunk);
  ASSERT_NE(result, nullptr);
  EXPECT_EQ(result->contributors, ranks({0, 2}));
  EXPECT_EQ(result->weight_sum, 7.0);
  EXPECT_EQ(result->nonfinite, ranks({1}));
}

TEST_F(ReductionTest, NothingInItReopensTheChunk) {
  members_.missed(Time{}, Rank{1}, false);
  members_.missed(Time{}, Rank{2}, false);
  arrive(0, 10s);
  ASSERT_NE(closed(), nullptr);
  reduction_->reduced(Time{10s}, kChunk, {}, false, out_);
  EXPECT_EQ(reduction_->result(kChunk), nullptr);
  EXPECT_TRUE(reduction_->collecting(kChunk));
  EXPECT_EQ(reduction_->admit(Rank{1}, kChunk), Reduction::Admit::keep);
}

TEST_F(ReductionTest, SettledRanksAreNotWaitedForAndCountIfTheyCome) {
  arrive(0, 10s);
  reduction_->settle(Rank{1}, {0, 1});
  EXPECT_EQ(reduction_->waitingFor(), ranks({2}));
  arrive(1, 10s);  // was on its way
  arrive(2, 10s);
  ASSERT_NE(closed(), nullptr);
  EXPECT_EQ(closed()->contributors, ranks({0, 1, 2}));
}

TEST_F(ReductionTest, RepeatsAndLateOnesAreTold) {
  arrive(1, 10s);
  EXPECT_EQ(reduction_->admit(Rank{1}, kChunk), Reduction::Admit::duplicate);
  arrive(0, 10s);
  arrive(2, 10s);
  EXPECT_EQ(reduction_->admit(Rank{1}, kChunk), Reduction::Admit::late);
}

TEST_F(ReductionTest, DiscardedContributionsAreFreed) {
  arrive(1, 10s);
  reduction_->discard(kChunk, out_);
  EXPECT_TRUE(std::holds_alternative<effect::Discard>(out_.back()));
  EXPECT_TRUE(reduction_->idle());
  EXPECT_TRUE(reduction_->arrivedAt(kChunk).empty());
}

// Rank 1 died after it contributed, and rank 2 is through: the chunk closes with nobody in it.
TEST_F(ReductionTest, ContributionsOfTheDeadAloneAreFreed) {
  reduction_->settle(Rank{0}, {0, 1});
  reduction_->settle(Rank{2}, {0, 1});
  members_.at(Rank{1}).link = Member::Link::gone;
  members_.at(Rank{1}).gone_reason = Reason::dead;
  arrive(1, 10s);
  ASSERT_EQ(out_.size(), 1u);
  EXPECT_TRUE(std::holds_alternative<effect::Discard>(out_.front()));
  EXPECT_TRUE(reduction_->idle());
}

TEST_F(ReductionTest, AHurriedChunkWaitsForNobody) {
  arrive(1, 10s);
  reduction_->hurry(kChunk);
  reduction_->closeReady(out_);
  ASSERT_NE(closed(), nullptr);
  EXPECT_EQ(closed()->contributors, ranks({1}));
}

}  // namespace
}  // namespace papilio::fault
