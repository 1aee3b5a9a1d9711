// Control messages: what goes in comes out; truncated, extended or illegal bytes are rejected.
#include "core/control_message.hpp"

#include <gtest/gtest.h>

#include <random>

namespace papilio {
namespace {

NextView largestView() {
  NextView view;
  view.step = 1ULL << 40;
  view.members = ContributorSet::firstN(kMaxRanks);
  for (std::uint32_t i = 0; i < kMaxJoiners; ++i) {
    view.joiners.push_back({Rank{i * 7}, std::string(kMaxRecordBytes, 'r')});
  }
  return view;
}

std::vector<ControlBody> samples() {
  RoundShape shape;
  shape.numel = 77;
  ContributorSet some;
  some.insert(Rank{1});
  some.insert(Rank{200});
  ContributorSet other;
  other.insert(Rank{2});
  return {msg::Join{Rank{1}, 4},
          msg::Leave{true},
          msg::Enter{Seq{5}, shape, ContributorSet::firstN(3)},
          msg::StrictFailed{Seq{6}, some, 1},
          msg::Nack{Seq{7}, NackCode::corrupt, ChunkIndex{3}, Seq{2}, shape, some},
          msg::Verdict{Seq{8}, SchemaHash{9}, some, other},
          msg::Progress{Seq{9}, some},
          msg::Fetch{Seq{10}, {1, 4}},
          msg::None{Seq{10}, {1, 4}, msg::Known::lacking},
          msg::Settled{Seq{11}, {0, 2}, Seq{3}},
          msg::Suspect{Rank{2}, Seq{12}, true},
          msg::Reinstate{Seq{13}},
          msg::Handover{Seq{14}, Holding::lacks, some},
          msg::Offer{Seq{15}, -3, 1ULL << 40, 7},
          msg::Accept{Seq{16}},
          msg::Withdraw{Seq{17}, true, 2},
          msg::Ballot{BallotStage::propose, 65537, 0, 0, largestView()}};
}

TEST(ControlMessage, RoundTrip) {
  EXPECT_EQ(samples().size(), std::variant_size_v<ControlBody>);
  for (const auto& body : samples()) {
    const auto bytes = encode(ControlMessage{GroupId{0xfeed}, body});
    ASSERT_LE(bytes.size(), kMaxControlBytes);
    const auto out = parseControl(bytes);
    ASSERT_TRUE(out) << describe(body);
    EXPECT_EQ(out->group, GroupId{0xfeed});
    EXPECT_EQ(encode(*out), bytes) << describe(body);
    EXPECT_EQ(describe(out->body), describe(body));
  }
}

TEST(ControlMessage, WrongLengthsAreRejected) {
  for (const auto& body : samples()) {
    auto bytes = encode(ControlMessage{GroupId{1}, body});
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      ASSERT_FALSE(parseControl(std::span(bytes).first(size))) << describe(body) << " " << size;
    }
    bytes.push_back(std::byte{0});
    ASSERT_FALSE(parseControl(bytes)) << describe(body);
  }
}

TEST(ControlMessage, IllegalFieldsAreRejected) {
  const auto rejected = [](ControlBody body) {
    return !parseControl(encode(ControlMessage{GroupId{1}, std::move(body)}));
  };
  ContributorSet one, other;
  one.insert(Rank{1});
  other.insert(Rank{2});
  EXPECT_TRUE(rejected(msg::Join{Rank{4}, 4}));
  EXPECT_TRUE(rejected(msg::Join{Rank{0}, kMaxRanks + 1}));
  EXPECT_TRUE(rejected(msg::Fetch{Seq{1}, {4, 3}}));
  EXPECT_TRUE(rejected(msg::Verdict{Seq{1}, SchemaHash{1}, one, one}));
  EXPECT_TRUE(rejected(msg::Suspect{Rank{kMaxRanks}, Seq{1}}));
  EXPECT_TRUE(rejected(msg::Handover{Seq{1}, static_cast<Holding>(4), one}));
  EXPECT_TRUE(rejected(msg::Handover{Seq{1}, static_cast<Holding>(0), one}));
  EXPECT_TRUE(rejected(msg::Handover{Seq{1}, Holding::has, one | other}));
  EXPECT_TRUE(rejected(msg::Handover{Seq{1}, Holding::has, {}}));
  const auto view = [](auto change) {
    NextView next = largestView();
    change(next);
    return msg::Ballot{BallotStage::decide, 1, 0, 0, next};
  };
  EXPECT_FALSE(rejected(view([](NextView&) {})));
  EXPECT_TRUE(rejected(view([](NextView& v) { v.step = 0; })));
  EXPECT_TRUE(rejected(view([](NextView& v) { v.members.erase(Rank{7}); })));
  EXPECT_TRUE(rejected(view([](NextView& v) { v.joiners[1].rank = Rank{0}; })));
  EXPECT_TRUE(rejected(view([](NextView& v) { v.joiners[1].record.clear(); })));
  EXPECT_TRUE(rejected(view([](NextView& v) { v.joiners.push_back({Rank{99}, "r"}); })));
  EXPECT_TRUE(rejected(msg::Ballot{BallotStage::propose, 1, 0, 0, {}}));
  EXPECT_TRUE(rejected(msg::Ballot{BallotStage::accept, 0, 0, 0, {}}));
  EXPECT_TRUE(rejected(msg::Ballot{BallotStage::promise, 1, 0, 0, largestView()}));
  EXPECT_TRUE(rejected(msg::Ballot{static_cast<BallotStage>(7), 1, 0, 0, {}}));
  auto withdraw = encode(ControlMessage{GroupId{1}, msg::Withdraw{Seq{1}, true, 0}});
  withdraw[withdraw.size() - 2] = std::byte{2};
  EXPECT_FALSE(parseControl(withdraw));
}

TEST(ControlMessage, NoiseNeverCrashes) {
  std::mt19937 random(7);
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::byte> bytes(random() % 120);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random());
    if (const auto out = parseControl(bytes)) {
      ++accepted;
      EXPECT_EQ(encode(*out).size(), bytes.size());
    }
  }
  EXPECT_LT(accepted, 2000);
}

}  // namespace
}  // namespace papilio
