// Control messages that take two ways: their order, and collectives over both.
#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <random>

#include "engine/cluster.hpp"
#include "engine/frame_order.hpp"

namespace papilio::engine::testing {
namespace {

using Bytes = std::vector<std::byte>;
using Taken = FrameOrder::Taken;

Bytes bytesOf(std::uint32_t value) {
  Bytes out(sizeof value);
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}

std::uint32_t valueOf(std::span<const std::byte> bytes) {
  std::uint32_t value = 0;
  EXPECT_EQ(bytes.size(), sizeof value);
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

const FrameOrder::Deliver kNothing = [](std::span<const std::byte>) { FAIL() << "delivered"; };

TEST(FrameOrder, IsThatOfTheSenderWhateverIsFaster) {
  for (unsigned seed = 1; seed <= 200; ++seed) {
    std::mt19937 random(seed);
    FrameOrder sender, receiver;
    std::array<std::deque<Bytes>, 2> under_way;
    std::uint32_t sent = 0, seen = 0, overtaken = 0;
    while (seen < 300) {
      if (sent < 300 && random() % 2 == 0) {
        const std::size_t way = random() % 2;
        under_way[way].push_back(sender.frame(bytesOf(sent), Way(way)));
        sender.sent(Way(way));
        ++sent;
      }
      const std::size_t way = random() % (2 + seed % 4) == 0 ? 1 : 0;
      if (under_way[way].empty()) continue;
      const auto before = seen;
      const auto taken = receiver.take(under_way[way].front(), Way(way), [&](auto message) {
        EXPECT_EQ(valueOf(message), seen);
        ++seen;
      });
      ASSERT_EQ(taken, Taken::yes);
      under_way[way].pop_front();
      if (seen == before) ++overtaken;
    }
    EXPECT_GT(overtaken, 0u) << "seed " << seed;
  }
}

TEST(FrameOrder, WhatIsNoFrameHarmsNothing) {
  FrameOrder sender, receiver;
  EXPECT_EQ(receiver.take(Bytes(3), Way::lane, kNothing), Taken::malformed);
  EXPECT_EQ(receiver.take(Bytes(20, std::byte{0x7f}), Way::lane, kNothing), Taken::malformed);
  std::uint32_t seen = 0;
  const auto deliver = [&](auto message) { seen = valueOf(message); };
  EXPECT_EQ(receiver.take(sender.frame(bytesOf(7), Way::lane), Way::lane, deliver), Taken::yes);
  EXPECT_EQ(seen, 7u);
}

TEST(FrameOrder, NotMoreThanSoManyWait) {
  FrameOrder sender, receiver;
  sender.sent(Way::connection);  // which never comes
  const Bytes frame = sender.frame(bytesOf(1), Way::lane);
  for (std::size_t i = 0; i < FrameOrder::kMostWaiting; ++i) {
    EXPECT_FALSE(receiver.full(Way::lane));
    ASSERT_EQ(receiver.take(frame, Way::lane, kNothing), Taken::yes);
  }
  EXPECT_TRUE(receiver.full(Way::lane));
  EXPECT_EQ(receiver.take(frame, Way::lane, kNothing), Taken::too_many);
}

// One all-gather of three nodes; whether everybody got what everybody gave.
bool gathers(Cluster& cluster, int call) {
  std::vector<Bytes> mine;
  std::vector<std::vector<Bytes>> theirs(3);
  for (int node = 0; node < 3; ++node) mine.push_back(Bytes(40, std::byte(10 * node + call % 10)));
  std::vector<Pending> pending;
  for (std::uint32_t node = 0; node < 3; ++node) {
    pending.push_back(strict(*cluster.groups[node], allgatherRequest(3, mine[node], theirs[node])));
  }
  bool fine = true;
  for (std::uint32_t node = 0; node < 3; ++node) {
    fine = !get(pending[node]).error && fine;
    for (std::uint32_t from = 0; from < 3; ++from) {
      fine = fine && (from == node || theirs[node][from] == mine[from]);
    }
  }
  return fine;
}

TEST(Frames, CollectivesDoNotCareWhichWayTheyTake) {
  Cluster cluster(3);
  for (const double share : {0.0, 0.5, 1.0, 0.1}) {
    cluster.network.framesByLane(share);
    for (int call = 0; call < 50; ++call) ASSERT_TRUE(gathers(cluster, call)) << share;
  }
  for (std::size_t node = 0; node < 3; ++node) {
    EXPECT_GT(cluster.stat(node, "control.frames_by_lane"), 100.0);
    EXPECT_GT(cluster.stat(node, "control.frames_by_connection"), 100.0);
    EXPECT_EQ(cluster.stat(node, "rejected.control"), 0.0);
  }
}

// ENTER goes by the connection, which stands still; what comes after it, by the lane, must wait.
TEST(Frames, OneWayWaitsForTheOther) {
  Cluster cluster(3);
  ASSERT_TRUE(gathers(cluster, 0));
  cluster.network.holdControl(0, 1);
  std::vector<Bytes> mine(6, Bytes(40, std::byte{1}));
  std::vector<std::vector<Bytes>> theirs(6);
  std::vector<Pending> pending;
  for (std::uint32_t call = 0; call < 2; ++call) {
    for (std::uint32_t node = 0; node < 3; ++node) {
      const std::uint32_t i = call * 3 + node;
      pending.push_back(strict(*cluster.groups[node], allgatherRequest(3, mine[i], theirs[i])));
    }
    // Asked of its progress thread: the call has been entered.
    for (std::size_t node = 0; node < 3; ++node) cluster.stat(node, "rounds_open");
    cluster.network.framesByLane(1.0);
  }
  EXPECT_TRUE(eventually([&] { return cluster.stat(0, "control.frames_by_lane") >= 1.0; }));
  EXPECT_EQ(pending[4].wait_for(200ms), std::future_status::timeout);
  cluster.network.holdControl(0, 1, false);
  for (auto& call : pending) EXPECT_FALSE(get(call).error);
}

// Node 0 counts a frame on the connection that does not come: node 1 gives it up, and says why.
TEST(Frames, WhoseFramesDoNotComeIsGivenUp) {
  Cluster cluster(3);
  ASSERT_TRUE(gathers(cluster, 0));
  cluster.network.holdControl(0, 1);
  constexpr std::size_t kCalls = FrameOrder::kMostWaiting + 10;
  std::vector<Bytes> mine(kCalls, Bytes(40, std::byte{1}));
  std::vector<std::vector<Bytes>> theirs(kCalls);
  std::vector<Pending> pending;
  for (std::size_t call = 0; call < kCalls; ++call) {
    pending.push_back(strict(*cluster.groups[0], allgatherRequest(3, mine[call], theirs[call])));
    if (call > 0) continue;
    cluster.stat(0, "rounds_open");  // asked of its progress thread: the call has been entered
    cluster.network.framesByLane(1.0);
  }
  const auto said = [&] {
    for (const auto& line : cluster.log(1)) {
      if (line.find("peer 0 lost (unreachable: control messages that it counts") !=
          std::string::npos) {
        return true;
      }
    }
    return false;
  };
  EXPECT_TRUE(eventually(said));
  for (auto& group : cluster.groups) group->abort("the test is over");
  for (auto& call : pending) EXPECT_TRUE(get(call).error);
}

}  // namespace
}  // namespace papilio::engine::testing
