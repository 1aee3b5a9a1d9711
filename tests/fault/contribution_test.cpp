// The contributor's side of a round: whose result is overdue when.
#include "fault/contribution.hpp"

#include <gtest/gtest.h>

namespace papilio::fault {
namespace {

class ContributionTest : public testing::Test {
 protected:
  ContributionTest() : members_(3, Rank{0}, options_, 1), policy_(1s) {
    shape_.numel = 10;
    // A small tensor whose only chunk rank 1 reduces.
    while (Layout(10, 4, 3, Seq{seq_}).owner(ChunkIndex{0}) != Rank{1}) ++seq_;
    for (std::uint32_t r = 0; r < 3; ++r) {
      members_.at(Rank{r}).ever_contributed = true;
      members_.at(Rank{r}).link = Member::Link::up;
    }
    round_.emplace(members_, policy_, Seq{seq_}, SchemaHash{5}, shape_, 1.0F, kEntered,
                   kEntered + 100s);
    round_->start(out_);
  }
  Duration budget() const { return policy_.budget() + Contribution::kResultMargin; }

  static constexpr Time kEntered{50s};
  GroupOptions options_;
  Members members_;
  ArrivalPolicy policy_;
  RoundShape shape_;
  std::uint64_t seq_ = 1;
  std::optional<Contribution> round_;
  Effects out_;
};

TEST_F(ContributionTest, AReducerIsOverdueAfterItsBudget) {
  EXPECT_EQ(round_->targetOf(ChunkIndex{0}), Rank{1});
  EXPECT_TRUE(round_->overdue(kEntered + budget() - 1ms).empty());
  EXPECT_TRUE(round_->overdue(kEntered + budget()).contains(Rank{1}));
  members_.at(Rank{1}).reducer_life = kEntered + 1s;  // it showed PROGRESS
  EXPECT_TRUE(round_->overdue(kEntered + budget()).empty());
}

// Results may trickle in, each before its reducer would be overdue. All of them together have a
// limit; that the reducer waits for others does not count.
TEST_F(ContributionTest, ResultsThatTrickleInHaveALimit) {
  const Duration limit =
      policy_.patience() + Contribution::kResultMargin + ArrivalPolicy::transfer(shape_.numel * 4);
  round_->reducerWaits(kEntered + 5s, Rank{1});
  members_.at(Rank{1}).reducer_life = kEntered + 5s + limit;  // the last one came just now
  EXPECT_TRUE(round_->overdue(kEntered + 5s + limit - 1ns).empty());
  EXPECT_TRUE(round_->overdue(kEntered + 5s + limit).contains(Rank{1}));
}

// Overdue, so its result was asked for elsewhere: whose doing it is depends on the answers.
TEST_F(ContributionTest, WhoIsAskedAboutAReducerSaysWhoseDoingItIs) {
  const auto findings = [&](const std::vector<msg::None>& answers) {
    Contribution round = *round_;
    round.suspect(Rank{1});
    round.reducerFailed(kEntered + 2s, Rank{1}, false, out_);
    EXPECT_TRUE(round.takeFindings().guilty.empty()) << "before anybody has answered";
    for (const auto& none : answers) round.gotNone(kEntered + 2s, Rank{2}, none, out_);
    round.advance(kEntered + 3s, out_);
    return round.takeFindings();
  };
  EXPECT_TRUE(findings({{Seq{seq_}, {0, 1}, msg::Known::lacking}}).confirmed.contains(Rank{1}));
  EXPECT_TRUE(findings({{Seq{seq_}, {0, 1}, msg::Known::came}}).cleared.contains(Rank{1}));
  EXPECT_TRUE(findings({{Seq{seq_}, {0, 1}, msg::Known::nothing}}).cleared.contains(Rank{1}));
  EXPECT_TRUE(findings({}).cleared.contains(Rank{1})) << "nobody answers this rank";
}

// The time of a stand-in starts when it gets the chunk; its predecessor's is no fault of its own.
TEST_F(ContributionTest, AStandInIsNotOverdueForItsPredecessor) {
  const Time later = kEntered + 30s;
  members_.routeAround(Rank{1}, Seq{seq_});
  round_->redirect(later, Rank{1}, out_);
  ASSERT_EQ(round_->targetOf(ChunkIndex{0}), Rank{2});
  EXPECT_TRUE(round_->overdue(later).empty());
  EXPECT_TRUE(round_->overdue(later + budget() - 1ms).empty());
  EXPECT_TRUE(round_->overdue(later + budget()).contains(Rank{2}));
}

// A reducer that asks for it is told which chunks will never come from here.
TEST_F(ContributionTest, SaysWhatSomebodyElseReduces) {
  EXPECT_TRUE(round_->notAt(Rank{1}).empty());
  // Rank 2 stands in for rank 1, of whose death this rank has not heard: the chunk will come to it.
  EXPECT_TRUE(round_->notAt(Rank{2}).empty());
  members_.routeAround(Rank{1}, Seq{seq_});
  round_->redirect(kEntered, Rank{1}, out_);
  EXPECT_EQ(round_->notAt(Rank{1}), (std::vector<ChunkRange>{{0, 1}}));
  EXPECT_TRUE(round_->notAt(Rank{2}).empty());
}

// This rank was gone for a while, so its successor reduced its shard, without rank 2, which had
// gone on with its local value. Rank 2 did nothing wrong; this rank was late.
TEST_F(ContributionTest, WhoWasPassedOverItselfBlamesNobodyForIt) {
  std::uint64_t seq = 1;
  while (Layout(10, 4, 3, Seq{seq}).owner(ChunkIndex{0}) != Rank{0}) ++seq;
  Contribution round(members_, policy_, Seq{seq}, SchemaHash{5}, shape_, 1.0F, kEntered,
                     kEntered + 100s);
  DataHeader header;
  header.type = MessageType::result;
  header.flags = kOthersSettled;
  header.seq = Seq{seq};
  header.attempt = 1;
  header.contributors = ContributorSet::firstN(2);
  header.weight_sum = 2;
  round.start(out_);
  round.gotResult(kEntered, Rank{1}, header, out_);
  const Report report = round.report();
  EXPECT_EQ(report.outcome, Outcome::degraded);
  EXPECT_TRUE(report.blamed.empty());
  EXPECT_TRUE(report.late.contains(Rank{0}));
}

// Only the reducer knows why somebody is missing: rank 2 waited for rank 1, or for this rank.
TEST_F(ContributionTest, TheReducerSaysWhoIsToBlame) {
  DataHeader header;
  header.type = MessageType::result;
  header.seq = Seq{seq_};
  header.contributors = ContributorSet::firstN(2);
  header.weight_sum = 2;
  header.blamed.insert(Rank{1});
  Contribution other = *round_;
  round_->gotResult(kEntered, Rank{1}, header, out_);
  Report report = round_->report();
  EXPECT_EQ(report.blamed, (std::map<Rank, Reason>{{Rank{1}, Reason::slow}}));
  EXPECT_TRUE(report.late.empty());
  EXPECT_EQ(round_->heldHeader(ChunkIndex{0}).blamed, header.blamed);

  header.blamed = {};
  header.blamed.insert(Rank{0});
  other.gotResult(kEntered, Rank{1}, header, out_);
  report = other.report();
  EXPECT_TRUE(report.blamed.empty());
  EXPECT_TRUE(report.late.contains(Rank{0}));
}

// Rank 1 reduced, without having come to the round itself: it had to wait for others, so it blames
// nobody for that. Only rank 2 had a NaN.
TEST_F(ContributionTest, WhoIsMissingHasANanOnlyIfTheReducerSaysSo) {
  DataHeader header;
  header.type = MessageType::result;
  header.seq = Seq{seq_};
  header.contributors = ContributorSet::firstN(1);
  header.weight_sum = 1;
  header.flags = kNonFiniteDropped;
  header.nonfinite.insert(Rank{2});
  round_->gotResult(kEntered, Rank{1}, header, out_);
  const Report report = round_->report();
  EXPECT_EQ(report.blamed, (std::map<Rank, Reason>{{Rank{2}, Reason::nonfinite}}));
  // Whoever fetches it from here hears the same.
  EXPECT_EQ(round_->heldHeader(ChunkIndex{0}).nonfinite, header.nonfinite);
  EXPECT_NE(round_->heldHeader(ChunkIndex{0}).flags & kNonFiniteDropped, 0);
}

}  // namespace
}  // namespace papilio::fault
