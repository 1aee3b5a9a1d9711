// Contributions that stand for a whole host: who is waited for, who counts, what is refused.
#include "fault/host_share.hpp"

#include <algorithm>

#include "fault/machine.hpp"
#include "fault/reduction_fixture.hpp"

namespace papilio::fault {
namespace {

// Rank 0 on a host of its own reduces; ranks 1, 2 and 3 share one.
class HostShareTest : public ReductionFixture {
 protected:
  HostShareTest() : ReductionFixture(4) {
    members_.place({0, 1, 1, 1});
    begin();
    reduction_->arrived(Time{10s}, Rank{0}, kChunk, 1);
  }
  void speak(std::uint32_t rank, const ContributorSet& set, Duration at = 10s) {
    const Reduction::Share share{set, members_.hostOf(Rank{rank}), {}};
    reduction_->arrived(Time{} + at, Rank{rank}, kChunk, static_cast<float>(set.count()), &share);
    reduction_->closeReady(out_);
  }
  const Reduction::Result& result() {
    reduction_->reduced(Time{11s}, kChunk, closed()->contributors, true, out_);
    return *reduction_->result(kChunk);
  }
};

TEST_F(HostShareTest, NobodyElseOfTheHostIsWaitedFor) {
  speak(1, ranks({1, 2, 3}));
  ASSERT_NE(closed(), nullptr);
  EXPECT_EQ(closed()->contributors, ranks({0, 1}));
  EXPECT_EQ(result().contributors, ranks({0, 1, 2, 3}));
  EXPECT_EQ(result().weight_sum, 4);
}

TEST_F(HostShareTest, WhomItsHostCouldNotWaitForIsMissingWithoutBlame) {
  speak(1, ranks({1, 3}));
  ASSERT_NE(closed(), nullptr);
  EXPECT_EQ(result().contributors, ranks({0, 1, 3}));
  EXPECT_EQ(result().spoken_for, ranks({2}));
  EXPECT_EQ(result().weight_sum, 3);
}

// It died after it had spoken: the next one speaks again, and only that counts.
TEST_F(HostShareTest, ADeadLeaderIsNotHeard) {
  reduction_->arrived(Time{10s}, Rank{1}, kChunk, 3, nullptr);
  const Reduction::Share share{ranks({1, 2, 3}), ranks({1, 2, 3}), {}};
  reduction_->arrived(Time{10s}, Rank{1}, kChunk, 3, &share);
  members_.at(Rank{1}).link = Member::Link::gone;
  members_.at(Rank{1}).gone_reason = Reason::dead;
  reduction_->closeReady(out_);
  EXPECT_EQ(closed(), nullptr);
  EXPECT_EQ(reduction_->waitingFor(), ranks({2, 3}));
  speak(2, ranks({1, 2, 3}));
  ASSERT_NE(closed(), nullptr);
  EXPECT_EQ(closed()->contributors, ranks({0, 2}));
  EXPECT_EQ(result().contributors, ranks({0, 1, 2, 3}));
  EXPECT_EQ(result().weight_sum, 4);
}

TEST_F(HostShareTest, WhoeverSpeaksForARankItCountsOnce) {
  // Rank 2 had taken its leader for dead.
  const Reduction::Share alone{ranks({2}), ranks({2}), {}};
  reduction_->arrived(Time{10s}, Rank{2}, kChunk, 1, &alone);
  reduction_->closeReady(out_);
  EXPECT_EQ(closed(), nullptr);
  speak(1, ranks({1, 2, 3}));
  ASSERT_NE(closed(), nullptr);
  EXPECT_EQ(closed()->contributors, ranks({0, 1}));
  EXPECT_EQ(result().weight_sum, 4);
}

class HostMachineTest : public testing::Test {
 protected:
  HostMachineTest() : machine_(config()) {
    for (std::uint32_t r = 1; r < 4; ++r) machine_.peerUp(Time{1s}, Rank{r}, Incarnation{1});
    shape_.numel = 10;
    while (Layout(10, 4, 4, Seq{seq_}).owner(kChunk) != Rank{0}) ++seq_;
  }
  static MachineConfig config() {
    MachineConfig out;
    out.group = GroupId{1};
    out.me = Rank{0};
    out.size = 4;
    out.hosts = {0, 0, 1, 1};
    return out;
  }
  DataHeader spoken(std::uint32_t rank, const ContributorSet& set) {
    DataHeader header;
    header.flags = kOfHost;
    header.view = ViewNumber{1};
    header.src = Rank{rank};
    header.seq = Seq{seq_};
    header.shape = shape_;
    header.schema = schemaOf(shape_, GroupId{1}, ViewNumber{1});
    header.contributors = set;
    header.weight = static_cast<float>(set.count());
    header.payload_bytes = 40;
    return header;
  }
  Admission judge(const DataHeader& header) { return machine_.judge(Time{2s}, header.src, header); }

  Machine machine_;
  RoundShape shape_;
  std::uint64_t seq_ = 1;
};

TEST_F(HostMachineTest, ALeaderSpeaksForItsOwnHostAndForItself) {
  EXPECT_EQ(judge(spoken(2, ranks({3}))), Admission::drop) << "not for itself";
  EXPECT_EQ(judge(spoken(2, ranks({1, 2}))), Admission::drop) << "for another host";
  EXPECT_EQ(judge(spoken(2, ranks({2, 3, 200}))), Admission::drop) << "for nobody there is";
  EXPECT_EQ(judge(spoken(2, {})), Admission::drop) << "for nobody";
  auto header = spoken(2, ranks({2, 3}));
  header.blamed = ranks({1});
  EXPECT_EQ(judge(header), Admission::drop) << "accuses another host";
  EXPECT_EQ(machine_.counters().dropped_malformed, 5u);
  EXPECT_EQ(judge(spoken(2, ranks({2, 3}))), Admission::keep);
}

TEST_F(HostMachineTest, WhoListensSendsNoData) {
  auto header = spoken(2, {});
  header.flags = kListens;
  EXPECT_EQ(judge(header), Admission::drop);
  EXPECT_EQ(machine_.counters().dropped_malformed, 1u) << "it has a payload";
  header.payload_bytes = 0;
  EXPECT_EQ(judge(header), Admission::drop);
  EXPECT_EQ(machine_.counters().dropped_malformed, 1u);
}

// The user's word holds for what comes in company, too.
TEST_F(HostMachineTest, ABannedRankIsNotLetInByItsLeader) {
  machine_.ban(Time{2s}, Rank{3}, std::nullopt, "asked for");
  EXPECT_EQ(judge(spoken(2, ranks({2, 3}))), Admission::drop);
  EXPECT_EQ(judge(spoken(2, ranks({2}))), Admission::keep);
}

// Others of the host may be through with their part a moment before this rank is.
TEST_F(HostMachineTest, AResultOfThisHostThatIsEarlyIsKept) {
  DataHeader header = spoken(1, {});
  header.type = MessageType::result;
  header.flags = kRelayed;
  header.contributors = ranks({0, 1, 2, 3});
  EXPECT_EQ(judge(header), Admission::defer);
  header.src = Rank{2};
  EXPECT_EQ(machine_.judge(Time{2s}, Rank{2}, header), Admission::drop) << "of another host";
}

TEST_F(HostMachineTest, TheDataOfTheHostGoesOnceAndSaysSo) {
  HostShare share;
  share.ranges = {{0, 10, Source::reduced, ranks({0, 1}), 2.0}};
  while (Layout(10, 4, 4, Seq{seq_}).owner(kChunk) != Rank{2}) ++seq_;
  machine_.enterAllreduce(Time{2s}, Seq{seq_}, shape_, 60s, share);
  const auto effects = machine_.takeEffects();
  const auto sends = std::count_if(effects.begin(), effects.end(), [](const Effect& effect) {
    return std::holds_alternative<effect::SendContribution>(effect);
  });
  EXPECT_EQ(sends, 1);
  const auto header = machine_.contributionHeader(Seq{seq_}, kChunk);
  EXPECT_EQ(header.contributors, ranks({0, 1}));
  EXPECT_EQ(header.weight, 2.0F);
  EXPECT_NE(header.flags & kOfHost, 0);
}

}  // namespace
}  // namespace papilio::fault
