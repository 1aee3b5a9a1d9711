// Rounds that wait for what a host combines first: order, cancelling, abort, what is left in
// memory.
#include <gtest/gtest.h>

#include "engine/cluster.hpp"

namespace papilio::engine::testing {
namespace {

constexpr std::uint64_t kNumel = 100;

struct Round {
  Seq seq;
  Pending pending;
};

Round combining(Group& group, std::vector<float>& data, ReduceOp op = ReduceOp::avg) {
  auto promise = std::make_shared<std::promise<Completion>>();
  Round out;
  out.pending = promise->get_future();
  out.seq =
      group.submit(AllreduceRequest{data.data(), tolerant(data.size(), DType::float32, op), true},
                   std::nullopt, [promise](const Completion& done) { promise->set_value(done); });
  return out;
}

fault::HostShare sumOf(std::uint32_t ranks, double weight) {
  fault::HostShare share;
  share.ranges = {{0, kNumel, fault::Source::reduced, ContributorSet::firstN(ranks), weight}};
  return share;
}

TEST(Combined, LaterCollectivesBeginAfterIt) {
  Cluster cluster(2);
  std::vector<std::vector<float>> first(2), second(2);
  std::vector<Round> rounds;
  std::vector<Pending> later;
  for (std::uint32_t r = 0; r < 2; ++r) {
    first[r].assign(kNumel, static_cast<float>(r + 1));
    second[r].assign(kNumel, static_cast<float>(10 * r));
    rounds.push_back(combining(*cluster.groups[r], first[r]));
    later.push_back(allreduce(*cluster.groups[r], second[r], tolerant(kNumel)));
  }
  // Rank 1 has begun neither round; rank 0's second one can not be over without it.
  cluster.groups[0]->combined(rounds[0].seq, {});
  EXPECT_EQ(later[0].wait_for(0s), std::future_status::timeout);
  cluster.groups[1]->combined(rounds[1].seq, {});
  for (std::uint32_t r = 0; r < 2; ++r) {
    const auto one = get(rounds[r].pending);
    const auto two = get(later[r]);
    EXPECT_EQ(one.report.outcome, fault::Outcome::complete);
    EXPECT_EQ(two.report.outcome, fault::Outcome::complete);
    EXPECT_LT(one.seq, two.seq);
    EXPECT_EQ(first[r], std::vector<float>(kNumel, 1.5F));
    EXPECT_EQ(second[r], std::vector<float>(kNumel, 5.0F));
  }
}

// Whatever ends the round before it has begun: the memory is the caller's until what combines is
// through with it, and no sum is left there.
TEST(Combined, ACancelledOneEndsWhenTheMemoryIsFree) {
  Cluster cluster(2);
  std::vector<float> data(kNumel, 12.0F), after(kNumel, 1.0F), other(kNumel, 3.0F);
  auto round = combining(*cluster.groups[0], data);
  cluster.groups[0]->cancel(round.seq, fault::ErrorKind::deadline_exceeded, "enough");
  EXPECT_EQ(cluster.groupStat(0, "rounds_open"), 0.0);  // the command before is through
  EXPECT_EQ(round.pending.wait_for(0s), std::future_status::timeout);
  cluster.groups[0]->combined(round.seq, sumOf(2, 4.0));
  const auto done = get(round.pending);
  EXPECT_EQ(done.error.kind, fault::ErrorKind::deadline_exceeded);
  EXPECT_EQ(done.error.text, "enough");
  EXPECT_EQ(data, std::vector<float>(kNumel, 3.0F));
  // The next one goes on.
  auto mine = allreduce(*cluster.groups[0], after, tolerant(kNumel));
  std::vector<float> skipped(kNumel, 0.0F);
  auto theirs = allreduce(*cluster.groups[1], skipped, tolerant(kNumel));
  auto next = allreduce(*cluster.groups[1], other, tolerant(kNumel));
  cluster.groups[1]->cancel(Seq{1}, fault::ErrorKind::aborted, "as on the other side");
  EXPECT_EQ(get(mine).report.outcome, fault::Outcome::complete);
  EXPECT_EQ(get(next).report.outcome, fault::Outcome::complete);
  EXPECT_EQ(after, std::vector<float>(kNumel, 2.0F));
  get(theirs);
}

TEST(Combined, AbortEndsWhatHasNotBegun) {
  Cluster cluster(2);
  std::vector<float> data(kNumel, 1.0F), more(kNumel, 1.0F);
  auto round = combining(*cluster.groups[0], data);
  auto behind = allreduce(*cluster.groups[0], more, tolerant(kNumel));
  cluster.groups[0]->abort("the test says so");
  EXPECT_EQ(get(round.pending).error.kind, fault::ErrorKind::aborted);
  EXPECT_EQ(get(behind).error.kind, fault::ErrorKind::aborted);
  EXPECT_EQ(more, std::vector<float>(kNumel, 1.0F));
  cluster.groups[0]->combined(round.seq, {});  // too late, and harmless
}

}  // namespace
}  // namespace papilio::engine::testing
