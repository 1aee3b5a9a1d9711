// The lane between healthy processes.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "shm_transport/lanes.hpp"
#include "shm_transport/segment.hpp"

namespace papilio::shm::testing {
namespace {

constexpr std::size_t kChunk = 256 * 1024;

bool connected(Lane& a, Lane& b) {
  return pump({&a, &b}, [&] {
    return a.transport->laneName(PeerId{0}) == "shm" && b.transport->laneName(PeerId{0}) == "shm";
  });
}

TEST(ShmTransport, MessagesOfAllSizesArriveIntactAndInOrder) {
  Lane a(1), b(2);
  a.connect(0, b);
  b.connect(0, a);
  ASSERT_TRUE(connected(a, b));
  const std::vector<std::size_t> sizes{0, 1, 63, 4096, 65'536, kChunk - 1, kChunk};
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto seed = static_cast<unsigned>(i);
    ASSERT_TRUE(a.send(0, pattern(64 + i, seed), pattern(sizes[i], seed + 100), i));
  }
  ASSERT_TRUE(pump({&a, &b}, [&] { return a.seen.done.size() == sizes.size(); }));
  ASSERT_EQ(b.seen.messages.size(), sizes.size());
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto seed = static_cast<unsigned>(i);
    EXPECT_EQ(b.seen.messages[i].from, PeerId{0});
    EXPECT_EQ(b.seen.messages[i].header, pattern(64 + i, seed));
    EXPECT_EQ(b.seen.messages[i].payload, pattern(sizes[i], seed + 100)) << sizes[i];
    EXPECT_EQ(a.seen.done[i], std::vector<bool>{true});
  }
  EXPECT_EQ(a.other->sent, 0u);
  std::map<std::string, double> stats;
  a.transport->addStats(stats);
  EXPECT_GT(stats["bytes.shm.sent"], 2.0 * kChunk);
}

TEST(ShmTransport, MemoryOfASendIsNotFreeBeforeItWasTaken) {
  Lane a(1), b(2);
  a.connect(0, b);
  b.connect(0, a);
  ASSERT_TRUE(connected(a, b));
  b.seen.on_message = [&](auto) { EXPECT_TRUE(a.seen.done.empty()); };
  ASSERT_TRUE(a.send(0, Bytes(64), pattern(kChunk, 1), 1));
  for (int i = 0; i < 10; ++i) a.transport->progress();
  EXPECT_TRUE(a.seen.done.empty());
  ASSERT_TRUE(pump({&a, &b}, [&] { return !a.seen.done.empty(); }));
}

TEST(ShmTransport, ManyMessagesAmongFour) {
  std::vector<std::unique_ptr<Lane>> lanes;
  std::vector<Lane*> all;
  for (std::uint64_t i = 0; i < 4; ++i) {
    lanes.push_back(std::make_unique<Lane>(i + 1));
    all.push_back(lanes.back().get());
  }
  for (std::uint32_t i = 0; i < 4; ++i) {
    for (std::uint32_t k = 0; k < 4; ++k) {
      if (i != k) all[i]->connect(k, *all[k]);
    }
  }
  // More than a ring holds, so it wraps, and a full one sends what is left the other way.
  constexpr std::uint32_t kEach = 3 * kRingEntries;
  for (std::uint32_t n = 0; n < kEach; ++n) {
    for (std::uint32_t i = 0; i < 4; ++i) {
      for (std::uint32_t k = 0; k < 4; ++k) {
        if (i != k) {
          ASSERT_TRUE(all[i]->send(k, pattern(70, n), pattern(1000 + n, n), n * 4 + k));
        }
      }
      if (n % 50 == 0) all[i]->transport->progress();
    }
  }
  const auto finished = [&](const Lane* lane) { return lane->seen.done.size() == 3 * kEach; };
  ASSERT_TRUE(pump(all, [&] { return std::all_of(all.begin(), all.end(), finished); }));
  std::uint64_t other = 0;
  std::uint64_t received = 0;
  for (const auto* lane : all) {
    other += lane->other->sent;
    received += lane->seen.received;
    EXPECT_TRUE(lane->seen.errors.empty());
    for (const auto& message : lane->seen.messages) {
      const auto seed = static_cast<unsigned>(message.payload.size() - 1000);
      ASSERT_EQ(message.payload, pattern(message.payload.size(), seed));
      ASSERT_EQ(message.header, pattern(70, seed));
    }
  }
  EXPECT_EQ(received + other, 12u * kEach);
  EXPECT_GT(received, 0u);
}

TEST(ShmTransport, AHeldPayloadStaysAndHoldsWhatCameLater) {
  Lane a(1), b(2);
  a.connect(0, b);
  b.connect(0, a);
  ASSERT_TRUE(connected(a, b));
  std::vector<std::pair<std::span<const std::byte>, std::shared_ptr<const void>>> held;
  b.seen.on_message = [&](std::span<const std::byte> payload) {
    EXPECT_EQ(b.transport->hold(payload.subspan(1)), nullptr) << "not what is reported";
    if (b.seen.received % 2 == 1) held.emplace_back(payload, b.transport->hold(payload));
  };
  for (SendToken n = 0; n < 4; ++n) {
    ASSERT_TRUE(a.send(0, Bytes(64), pattern(kChunk, static_cast<unsigned>(n)), n));
  }
  ASSERT_TRUE(pump({&a, &b}, [&] { return b.seen.messages.size() == 4; }));
  for (int i = 0; i < 20; ++i) a.transport->progress();
  EXPECT_TRUE(a.seen.done.empty()) << "its memory is being read";
  ASSERT_EQ(held.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    ASSERT_TRUE(held[i].second);
    const Bytes seen(held[i].first.begin(), held[i].first.end());
    EXPECT_EQ(seen, pattern(kChunk, static_cast<unsigned>(2 * i)));
  }
  const auto progressA = [&] { a.transport->progress(); };
  held[1].second.reset();  // the older one is still there
  progressA();
  EXPECT_TRUE(a.seen.done.empty());
  held[0].second.reset();
  progressA();
  EXPECT_EQ(a.seen.done.size(), 4u);
}

TEST(ShmTransport, ControlMessagesTakeTheRingAndLeaveRoomInIt) {
  Lane a(1), b(2), far(3, Use::near, "elsewhere");
  a.connect(0, b);
  b.connect(0, a);
  a.connect(1, far);
  ASSERT_TRUE(connected(a, b));
  EXPECT_FALSE(a.transport->sendFrame(PeerId{1}, pattern(40, 1)));
  EXPECT_FALSE(a.transport->sendFrame(PeerId{0}, pattern(kMaxEncodedHeader + 1, 1)));
  constexpr std::uint32_t kData = kRingEntries - kMostFrames;
  std::uint32_t sent = 0;
  for (std::uint32_t turn = 0; turn < 3; ++turn) {
    const std::size_t before = b.seen.frames.size();
    while (a.transport->sendFrame(PeerId{0}, pattern(40 + sent % 100, sent))) ++sent;
    EXPECT_EQ(sent - before, kMostFrames) << "as many as may be under way";
    for (std::uint32_t i = 0; i < kData; ++i) {
      ASSERT_TRUE(a.send(0, pattern(70, i), pattern(10, i), turn * kData + i));
    }
    ASSERT_TRUE(pump({&a, &b}, [&] {
      return a.seen.done.size() == (turn + 1) * kData && b.seen.frames.size() == sent;
    }));
  }
  EXPECT_EQ(a.other->sent, 0u) << "the data had room";
  for (std::uint32_t i = 0; i < sent; ++i) {
    ASSERT_EQ(b.seen.frames[i].header, pattern(40 + i % 100, i));
  }
  EXPECT_TRUE(a.seen.errors.empty() && b.seen.errors.empty());
}

TEST(ShmTransport, TheOtherLaneServesWhatCanNotBeReached) {
  Lane a(1), far(2, Use::near, "elsewhere");
  a.connect(0, far);
  EXPECT_EQ(a.other->connected[PeerId{0}], Bytes(10, std::byte{7})) << "its own address";
  EXPECT_EQ(a.transport->laneName(PeerId{0}), "other");
  EXPECT_TRUE(a.send(0, Bytes(64), Bytes(1000), 1));
  EXPECT_EQ(a.other->sent, 1u);

  Lane near(3);
  a.connect(1, near);
  EXPECT_TRUE(a.send(1, Bytes(64), Bytes(1000), 2)) << "it has not mapped us yet";
  EXPECT_EQ(a.other->sent, 2u);
  near.connect(0, a);
  ASSERT_TRUE(pump({&a, &near}, [&] { return a.transport->laneName(PeerId{1}) == "shm"; }));
  const Bytes heap(1000);  // not in the arena
  EXPECT_TRUE(a.transport->send(PeerId{1}, heap, heap, 3));
  EXPECT_EQ(a.other->sent, 3u);
}

TEST(ShmTransport, WithAProcessThatHasNoSegmentTheOtherLaneIsUsed) {
  Lane with(1), without(2, Use::never);
  with.connect(0, without);
  without.connect(0, with);
  EXPECT_EQ(with.other->connected[PeerId{0}], Bytes(10, std::byte{7}));
  EXPECT_EQ(without.other->connected[PeerId{0}], Bytes(10, std::byte{7}));
  EXPECT_EQ(without.transport->eventFd(), without.other->eventFd());
  EXPECT_TRUE(with.send(0, Bytes(64), Bytes(100), 1));
  EXPECT_TRUE(without.send(0, Bytes(64), Bytes(100), 1));
  EXPECT_EQ(with.other->sent, 1u);
  EXPECT_EQ(without.other->sent, 1u);
}

// It is left alone while it has nothing, and not forgotten while shared memory keeps both sides
// busy.
TEST(ShmTransport, TheOtherLaneIsServedWhenItStirs) {
  Lane a(1), b(2);
  a.connect(0, b);
  b.connect(0, a);
  ASSERT_TRUE(connected(a, b));
  ASSERT_TRUE(pump({&a, &b}, [&] { return a.transport->arm() && b.transport->arm(); }));
  const auto calls = a.other->progressed;
  SendToken token = 0;
  const auto busy = [&] {
    a.send(0, Bytes(64), Bytes(100), ++token);
    a.transport->progress();
    b.transport->progress();
  };
  for (int i = 0; i < 1000; ++i) busy();
  EXPECT_LE(a.other->progressed - calls, 1u);
  a.other->stir();
  int rounds = 0;
  while (a.other->stirred == 0 && ++rounds < 100) busy();
  EXPECT_EQ(a.other->stirred, 1u);
  // And out of a sleep.
  a.other->stir();
  ASSERT_TRUE(pump({&a, &b}, [&] { return a.other->stirred == 2; }, std::chrono::seconds(1)));
}

TEST(ShmTransport, SharedMemoryOnlySendsWhatWaitedAndNamesWhoCanNotBeReached) {
  Lane a(1, Use::only), b(2, Use::only), far(3, Use::only, "elsewhere");
  a.connect(0, b);
  EXPECT_TRUE(a.send(0, Bytes(64), pattern(1000, 5), 1));
  b.connect(0, a);
  ASSERT_TRUE(pump({&a, &b}, [&] { return b.seen.received == 1 && !a.seen.done.empty(); }));
  EXPECT_EQ(b.seen.messages[0].payload, pattern(1000, 5));
  EXPECT_TRUE(a.other->connected.empty());
  a.connect(1, far);
  ASSERT_TRUE(pump({&a, &b}, [&] { return !a.seen.errors.empty(); }));
  EXPECT_EQ(a.seen.errors[0].first, PeerId{1});
  EXPECT_NE(a.seen.errors[0].second.find("another host"), std::string::npos);
  EXPECT_FALSE(a.send(1, Bytes(64), Bytes(10), 2));
}

// Two threads that sleep on their descriptors: a lost wake-up would stall it.
TEST(ShmTransport, NoWakeUpIsLost) {
  constexpr std::uint64_t kRounds = 20'000;
  Lane a(1), b(2);
  a.connect(0, b);
  b.connect(0, a);
  ASSERT_TRUE(connected(a, b));
  a.seen.keep = b.seen.keep = false;
  const auto play = [](Lane& lane, bool serves) {
    for (std::uint64_t n = 0; n < kRounds; ++n) {
      if (serves) lane.send(0, Bytes(64), Bytes(8), n);
      if (!pump({&lane}, [&] { return lane.seen.received > n; })) return false;
      if (!serves) lane.send(0, Bytes(64), Bytes(8), n);
    }
    return pump({&lane}, [&] { return lane.seen.done.size() == kRounds; });
  };
  bool second = false;
  std::thread other([&] { second = play(b, false); });
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(play(a, true));
  other.join();
  EXPECT_TRUE(second);
  // A wake-up that was lost costs the nap of pump(), 20 ms.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(15));
}

std::uint64_t pagesOf(int fd) {
  struct stat info{};
  fstat(fd, &info);
  return static_cast<std::uint64_t>(info.st_blocks) * 512 / 4096;
}

TEST(OwnSegment, GivesPagesBackUnlessPeersMayReadThem) {
  OwnSegment segment;
  const auto before = pagesOf(segment.fd());
  std::byte* data = segment.take(kChunk);
  std::fill_n(data, kChunk, std::byte{1});
  EXPECT_GE(pagesOf(segment.fd()), before + kChunk / 4096);
  segment.giveBack(data, kChunk);
  EXPECT_EQ(pagesOf(segment.fd()), before);
  EXPECT_EQ(segment.take(kChunk), data) << "used again";
  std::fill_n(data, kChunk, std::byte{1});
  segment.freeze();
  segment.giveBack(data, kChunk);
  EXPECT_GE(pagesOf(segment.fd()), before + kChunk / 4096);
}

TEST(OwnSegment, RunsOutWithoutHarm) {
  OwnSegment segment;
  std::uint64_t taken = 0;
  while (segment.take(kChunk) != nullptr) ++taken;
  EXPECT_EQ(taken, kArenaBytes / kChunk);
  EXPECT_EQ(segment.take(4096), nullptr);
}

std::uint64_t residentShared() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssShmem:")) return std::stoull(line.substr(9)) * 1024;
  }
  return 0;
}

// 256 MiB through other blocks each time: what was read does not stay resident here.
TEST(ShmTransport, PagesOfPeersDoNotPileUp) {
  Lane a(1), b(2);
  a.connect(0, b);
  b.connect(0, a);
  ASSERT_TRUE(connected(a, b));
  b.seen.keep = false;
  std::uint64_t sum = 0;
  b.seen.on_message = [&](std::span<const std::byte> payload) {
    for (std::size_t i = 0; i < payload.size(); i += 4096) {
      sum += static_cast<std::uint64_t>(payload[i]);
    }
  };
  std::uint64_t most = 0;
  constexpr SendToken kMessages = 1024;
  for (SendToken n = 0; n < kMessages; ++n) {
    ASSERT_TRUE(a.send(0, Bytes(64), Bytes(kChunk, std::byte{1}), n));
    ASSERT_TRUE(pump({&a, &b}, [&] { return a.seen.done.size() > n; }));
    most = std::max(most, residentShared());
  }
  EXPECT_EQ(sum, kMessages * (kChunk / 4096));
  EXPECT_LT(most, 64ULL << 20);
}

}  // namespace
}  // namespace papilio::shm::testing
