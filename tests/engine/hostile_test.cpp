// Bytes that are wrong: garbage, impostors, damage, duplicates, overtaking lanes; and the user's
// memory, which only validated results reach, and only while the round lasts.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "core/control_message.hpp"
#include "core/crc32c.hpp"
#include "core/layout.hpp"
#include "core/wire.hpp"
#include "engine/cluster.hpp"
#include "engine/oracle.hpp"

namespace papilio::engine::testing {
namespace {

Bytes noise(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  Bytes out(size);
  for (auto& byte : out) byte = static_cast<std::byte>(random());
  return out;
}

// Two rounds' worth of proof that the group still averages.
void expectHealthy(Cluster& cluster) {
  const auto n = cluster.size();
  std::vector<std::vector<float>> tensors;
  std::vector<Pending> pending;
  for (std::uint32_t r = 0; r < n; ++r) tensors.emplace_back(40'000, static_cast<float>(r));
  for (std::uint32_t r = 0; r < n; ++r) {
    pending.push_back(allreduce(*cluster.groups[r], tensors[r], tolerant(40'000)));
  }
  for (std::uint32_t r = 0; r < n; ++r) {
    EXPECT_EQ(get(pending[r]).report.outcome, fault::Outcome::complete);
    EXPECT_EQ(tensors[r], std::vector<float>(40'000, static_cast<float>(n - 1) / 2));
  }
}

TEST(Hostile, GarbageIsCountedAndDropped) {
  Cluster cluster(2);
  double expected = 0;
  for (const std::size_t size : {0u, 1u, 63u, 64u, 65u, 104u, 160u}) {
    for (unsigned seed = 0; seed < 20; ++seed, ++expected) {
      cluster.network.inject(1, 0, noise(size, seed), noise(seed * 100, seed));
    }
    for (unsigned seed = 0; seed < 20; ++seed) {
      cluster.network.injectControl(1, 0, noise(size, seed));
    }
  }
  EXPECT_TRUE(eventually([&] { return cluster.stat(0, "rejected.header") == expected; }));
  EXPECT_TRUE(eventually([&] { return cluster.stat(0, "rejected.control") == 140; }));
  expectHealthy(cluster);
}

// Headers of real messages, with one bit flipped or cut short.
TEST(Hostile, TruncatedAndDamagedHeaders) {
  Cluster cluster(3);
  std::vector<Bytes> seen;
  cluster.network.onData([&](FakeNetwork::Message message) {
    if (message.from == 1 && message.to == 0) seen.push_back(message.header);
    return 1;
  });
  expectHealthy(cluster);
  cluster.network.onData({});
  ASSERT_FALSE(seen.empty());
  const double before = cluster.stat(0, "rejected.header");
  double injected = 0;
  for (const auto& header : seen) {
    for (std::size_t bit = 0; bit < header.size() * 8; bit += 13, ++injected) {
      auto damaged = header;
      damaged[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
      cluster.network.inject(1, 0, damaged, {});
    }
    for (std::size_t size = 0; size < header.size(); size += 7, ++injected) {
      cluster.network.inject(1, 0, {header.begin(), header.begin() + static_cast<int>(size)}, {});
    }
  }
  EXPECT_TRUE(eventually([&] { return cluster.stat(0, "rejected.header") == before + injected; }));
  expectHealthy(cluster);
}

Bytes encoded(const DataHeader& header) {
  EncodedHeader out;
  encode(header, out);
  return {out.view().begin(), out.view().end()};
}

TEST(Hostile, AnImpostorIsNotBelieved) {
  Cluster cluster(3);
  const Bytes payload(400, std::byte{0x41});
  DataHeader header;
  header.group = GroupId{1};
  header.view = ViewNumber{1};
  header.seq = Seq{1};
  header.shape = tolerant(100);
  header.schema = schemaOf(header.shape, header.group, header.view);
  header.payload_bytes = 400;
  header.payload_crc = crc32c(payload);
  header.src = Rank{2};  // but it comes from node 1
  header.incarnation = cluster.groups[0]->peers()[2].incarnation;
  cluster.network.inject(1, 0, encoded(header), payload);
  header.src = Rank{1};
  header.incarnation = Incarnation{12345};  // an earlier life of rank 1
  cluster.network.inject(1, 0, encoded(header), payload);
  header.src = Rank{0};  // myself
  cluster.network.inject(1, 0, encoded(header), payload);
  header.src = Rank{200};
  cluster.network.inject(1, 0, encoded(header), payload);
  EXPECT_TRUE(eventually([&] { return cluster.stat(0, "rejected.identity") == 4; }));
  header.src = Rank{1};
  header.group = GroupId{99};
  cluster.network.inject(1, 0, encoded(header), payload);
  EXPECT_TRUE(eventually([&] { return cluster.stat(0, "rejected.unknown_group") == 1; }));
  header.payload_bytes = 401;
  cluster.network.inject(1, 0, encoded(header), payload);
  EXPECT_TRUE(eventually([&] { return cluster.stat(0, "rejected.header") == 1; }));
  EXPECT_EQ(cluster.groupStat(0, "rounds_held"), 0) << "nothing was opened for it";
  expectHealthy(cluster);
}

// Contributions for thousands of rounds that nobody has entered: no more is kept than credits
// allow, and the group goes on.
TEST(Hostile, ContributionsToFutureRoundsAreBounded) {
  Cluster cluster(3);
  const Bytes payload(40'000, std::byte{0});
  DataHeader header;
  header.group = GroupId{1};
  header.view = ViewNumber{1};
  header.src = Rank{1};
  header.incarnation = cluster.groups[0]->peers()[1].incarnation;
  header.shape = tolerant(10'000);
  header.schema = schemaOf(header.shape, header.group, header.view);
  header.payload_bytes = 40'000;
  header.payload_crc = crc32c(payload);
  constexpr std::uint64_t kRounds = 3000;
  const double before = cluster.stat(0, "staging.bytes_in_use");
  for (std::uint64_t seq = 1000; seq < 1000 + kRounds; ++seq) {
    header.seq = Seq{seq};
    cluster.network.inject(1, 0, encoded(header), payload);
  }
  // A third of the rounds have their only chunk here; 24 of those contributions are kept.
  const auto flooded = [&] { return cluster.groupStat(0, "rejected.flood") > kRounds / 4.0; };
  EXPECT_TRUE(eventually(flooded));
  EXPECT_LE(cluster.stat(0, "staging.bytes_in_use") - before, 24.0 * 64 * 1024);
  expectHealthy(cluster);
}

TEST(Hostile, JoinsForGroupsThatDoNotExistAreBounded) {
  Cluster cluster(2);
  for (std::uint32_t id = 1000; id < 6000; ++id) {
    cluster.network.injectControl(1, 0, encode(ControlMessage{GroupId{id}, msg::Join{Rank{1}, 2}}));
  }
  // A group that both really create still comes up for other peers, and this one after the flood
  // as well when its join was among the first.
  auto early = cluster.addGroup(1000, {0, 1});
  std::vector<float> a(10, 1.0F), b(10, 3.0F);
  auto first = allreduce(*early[0], a, tolerant(10));
  auto second = allreduce(*early[1], b, tolerant(10));
  get(first);
  get(second);
  EXPECT_EQ(a, std::vector<float>(10, 2.0F));
  expectHealthy(cluster);
}

// The first copy of every contribution and result is damaged: it is sent again, once, and counts.
TEST(Hostile, ADamagedPayloadIsSentAgain) {
  Cluster cluster(2);
  std::map<std::pair<std::size_t, std::uint32_t>, int> copies;
  cluster.network.onData([&](FakeNetwork::Message message) {
    DataHeader header;
    if (parse(message.header, header) != ParseError::none) return 1;
    if (header.type == MessageType::contribution && message.from == 1 &&
        ++copies[{message.to, header.chunk.value}] == 1) {
      message.payload[message.payload.size() / 2] ^= std::byte{1};
    }
    return 1;
  });
  expectHealthy(cluster);
  EXPECT_GE(cluster.groupStat(0, "rejected.corrupt") + cluster.groupStat(1, "rejected.corrupt"),
            1.0);
  EXPECT_TRUE(cluster.groups[0]->blacklist().empty());
}

// More chunks than credits, and the first copy of each is damaged: what is sent again holds a
// credit already, and must not wait behind what has none.
TEST(Hostile, DamagedChunksThatHoldAllCreditsAreSentAgain) {
  Cluster cluster(2, hasty(10s));
  std::set<std::pair<std::size_t, std::uint32_t>> seen;
  cluster.network.onData([&](FakeNetwork::Message message) {
    DataHeader header;
    if (parse(message.header, header) != ParseError::none) return 1;
    if (header.type == MessageType::contribution &&
        seen.emplace(message.to, header.chunk.value).second) {
      message.payload[message.payload.size() / 2] ^= std::byte{1};
    }
    return 1;
  });
  constexpr std::uint64_t kNumel = 2'000'000;
  std::vector<std::vector<float>> tensors{std::vector<float>(kNumel, 1.0F),
                                          std::vector<float>(kNumel, 3.0F)};
  std::vector<Pending> pending;
  for (std::size_t r = 0; r < 2; ++r) {
    pending.push_back(allreduce(*cluster.groups[r], tensors[r], tolerant(kNumel)));
  }
  for (std::size_t r = 0; r < 2; ++r) {
    EXPECT_EQ(get(pending[r]).report.outcome, fault::Outcome::complete);
    EXPECT_EQ(tensors[r], std::vector<float>(kNumel, 2.0F));
  }
  EXPECT_GT(seen.size(), 2 * kCreditsPerShard);
  EXPECT_EQ(cluster.groupStat(0, "rejected.corrupt") + cluster.groupStat(1, "rejected.corrupt"),
            static_cast<double>(seen.size()));
}

TEST(Hostile, DuplicatesCountOnce) {
  Cluster cluster(3);
  cluster.network.onData([](FakeNetwork::Message) { return 3; });
  for (int i = 0; i < 5; ++i) expectHealthy(cluster);
}

TEST(Hostile, LanesThatOvertakeEachOther) {
  Cluster cluster(3);
  for (int i = 0; i < 10; ++i) {
    const auto from = static_cast<std::size_t>(i % 3);
    const auto to = static_cast<std::size_t>((i + 1) % 3);
    cluster.network.holdControl(from, to);
    cluster.network.stall(to, from);
    std::vector<std::vector<float>> tensors(3, std::vector<float>(40'000, static_cast<float>(i)));
    std::vector<Pending> pending;
    for (std::size_t r = 0; r < 3; ++r) {
      pending.push_back(allreduce(*cluster.groups[r], tensors[r], tolerant(40'000)));
    }
    cluster.network.stall(to, from, false);
    cluster.network.holdControl(from, to, false);
    for (auto& each : pending) EXPECT_EQ(get(each).report.outcome, fault::Outcome::complete);
    for (auto& tensor : tensors) {
      EXPECT_EQ(tensor, std::vector<float>(40'000, static_cast<float>(i)));
    }
  }
}

// Results that never check out never reach the tensor, not even in part.
TEST(UserMemory, IsUntouchedBeforeValidation) {
  Cluster cluster(2, hasty(300ms));
  cluster.network.onData([](FakeNetwork::Message message) {
    DataHeader header;
    if (parse(message.header, header) == ParseError::none && header.type == MessageType::result &&
        message.to == 0) {
      std::memset(message.payload.data(), 0xEE, message.payload.size());
    }
    return 1;
  });
  std::vector<std::vector<float>> tensors{std::vector<float>(200'000, 1.0F),
                                          std::vector<float>(200'000, 3.0F)};
  std::vector<Pending> pending;
  for (std::size_t r = 0; r < 2; ++r) {
    pending.push_back(allreduce(*cluster.groups[r], tensors[r], tolerant(200'000)));
  }
  const auto done = get(pending[0]);
  get(pending[1]);
  EXPECT_EQ(done.report.outcome, fault::Outcome::degraded);
  for (const auto& chunk : done.report.chunks) {
    const float expected = chunk.source == fault::Source::local ? 1.0F : 2.0F;
    for (auto i = chunk.start; i < chunk.stop; ++i) ASSERT_EQ(tensors[0][i], expected) << i;
  }
}

TEST(UserMemory, OfAStrictCollectiveToo) {
  Cluster cluster(2);
  cluster.network.onData([](FakeNetwork::Message message) {
    if (message.to == 0) std::memset(message.payload.data(), 0xEE, message.payload.size());
    return 1;
  });
  std::vector<Bytes> data{Bytes(300'000, std::byte{1}), Bytes(300'000, std::byte{2})};
  std::vector<Pending> pending;
  for (std::uint32_t r = 0; r < 2; ++r) {
    pending.push_back(strict(*cluster.groups[r], broadcastRequest(2, r, 1, data[r])));
  }
  const auto done = get(pending[0]);
  get(pending[1]);
  EXPECT_EQ(done.error.kind, fault::ErrorKind::peer_failed);
  EXPECT_EQ(done.error.reason, fault::Reason::corrupt);
  EXPECT_EQ(data[0], Bytes(300'000, std::byte{1}));
}

// After DoneFn the tensor is the user's: what still arrives, or is still being sent, is not it.
TEST(UserMemory, IsUntouchedAndUnreadAfterTheEnd) {
  Cluster cluster(3, hasty(300ms));
  expectHealthy(cluster);  // a member that never contributed is given a minute
  cluster.network.stall(2, 0);
  cluster.network.stall(0, 2);
  constexpr std::size_t kNumel = 300'000;
  std::vector<std::vector<float>> tensors(3, std::vector<float>(kNumel, 1.0F));
  std::vector<Pending> pending;
  for (std::size_t r = 0; r < 3; ++r) {
    pending.push_back(allreduce(*cluster.groups[r], tensors[r], tolerant(kNumel)));
  }
  get(pending[0]);
  std::memset(tensors[0].data(), 0x5A, kNumel * sizeof(float));
  const auto poison = tensors[0];
  cluster.network.stall(2, 0, false);
  cluster.network.stall(0, 2, false);
  get(pending[1]);
  get(pending[2]);
  ASSERT_TRUE(eventually([&] { return cluster.network.inFlight() == 0; }));
  cluster.engines[0]->stats();
  EXPECT_EQ(std::memcmp(tensors[0].data(), poison.data(), kNumel * sizeof(float)), 0);
  // Everybody else had ones only: a poisoned byte that was read would show.
  for (const std::size_t r : {1u, 2u}) EXPECT_EQ(tensors[r], std::vector<float>(kNumel, 1.0F));
}

TEST(UserMemory, AbortGivesItBackAtOnce) {
  Cluster cluster(2);
  std::vector<float> tensor(500'000, 1.0F);
  auto pending = allreduce(*cluster.groups[0], tensor, tolerant(500'000));
  std::thread other([&] { cluster.groups[0]->abort("enough"); });
  const auto done = get(pending);
  other.join();
  EXPECT_EQ(done.error.kind, fault::ErrorKind::aborted);
  std::fill(tensor.begin(), tensor.end(), 7.0F);
  std::vector<float> late(500'000, 3.0F);
  auto theirs = allreduce(*cluster.groups[1], late, tolerant(500'000));
  cluster.groups[0]->leave();
  get(theirs);
  EXPECT_EQ(tensor, std::vector<float>(500'000, 7.0F));
}

}  // namespace
}  // namespace papilio::engine::testing
