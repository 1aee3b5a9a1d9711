// Two planes over loopback: coming up, frames, pings, goodbye, parking.
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "control/planes.hpp"

namespace papilio::control::testing {
namespace {

TEST(Plane, BothSidesComeUpOnceAndKnowEachOther) {
  Plane low(1), high(2);
  join(low, high);
  ASSERT_EQ(low.seen.ups.size(), 1u);
  EXPECT_EQ(low.seen.ups[0].second.process, ProcessId{2});
  EXPECT_EQ(low.seen.ups[0].second.incarnation, Incarnation{1002});
  EXPECT_EQ(high.seen.ups[0].second.data_address, bytesOf("lane of 1"));
  EXPECT_TRUE(high.record().find(high.seen.ups[0].second.address) == std::string::npos);
  EXPECT_NE(low.record().find(high.seen.ups[0].second.address), std::string::npos);
}

TEST(Plane, FramesArriveWholeAndInOrder) {
  Plane a(1), b(2);
  join(a, b);
  std::vector<std::vector<std::byte>> sent;
  for (int i = 0; i < 500; ++i) {
    const auto size = static_cast<std::size_t>(i) % 512;
    sent.push_back(bytesOf(std::string(size, static_cast<char>('a' + i % 26))));
    ASSERT_TRUE(a.plane->send(PeerId{0}, sent.back()));
  }
  ASSERT_TRUE(pump({&a, &b}, [&] { return b.seen.frames.size() == sent.size(); }));
  EXPECT_EQ(b.seen.frames, sent);
  EXPECT_FALSE(a.plane->send(PeerId{0}, std::vector<std::byte>(513)));
  EXPECT_FALSE(a.plane->send(PeerId{7}, bytesOf("nobody")));
  EXPECT_EQ(a.plane->counters().frames_dropped, 2u);
}

TEST(Plane, APingIsAnsweredAndOnlyOneIsOut) {
  Plane a(1), b(2);
  join(a, b);
  for (int i = 0; i < 10; ++i) a.plane->ping(PeerId{0});
  ASSERT_TRUE(pump({&a, &b}, [&] { return a.seen.pongs.size() == 1; }));
  EXPECT_GT(a.seen.pongs[0], Duration::zero());
  EXPECT_LT(a.seen.pongs[0], kPatience);
  a.plane->ping(PeerId{0});
  ASSERT_TRUE(pump({&a, &b}, [&] { return a.seen.pongs.size() == 2; }));
  EXPECT_TRUE(b.seen.frames.empty()) << "pings are no frames";
}

TEST(Plane, GoodbyeArrivesBehindWhatWasSaidBefore) {
  Plane a(1), b(2);
  join(a, b);
  a.send(0, "last words");
  a.plane->shutdown(1000);
  ASSERT_TRUE(pump({&b}, [&] { return !b.seen.downs.empty(); }));
  EXPECT_EQ(b.seen.downs[0].cause, DownCause::bye);
  ASSERT_EQ(b.seen.frames.size(), 1u);
  EXPECT_EQ(b.seen.frames[0], bytesOf("last words"));
  EXPECT_TRUE(a.seen.downs.empty()) << "a plane that shuts down reports nobody";
  EXPECT_FALSE(b.send(0, "too late"));
}

// The other side is up as soon as it has our hello, and may speak before anybody here has asked for
// it. Not a byte of that is lost, and it does not count as a breach.
TEST(Plane, AParkedPeerKeepsWhatItSaid) {
  for (const bool speaks : {false, true}) {
    Plane early(1), late(2);
    early.connect(0, late);
    ASSERT_TRUE(pump({&early, &late}, [&] { return early.seen.ups.size() == 1; }));
    if (speaks) {
      for (int i = 0; i < 50; ++i) ASSERT_TRUE(early.send(0, "word " + std::to_string(i)));
    }
    for (int i = 0; i < 200; ++i) {
      early.wait(100us);
      late.wait(100us);
    }
    EXPECT_TRUE(late.seen.ups.empty());
    EXPECT_TRUE(late.seen.frames.empty());
    late.connect(0, early);
    EXPECT_TRUE(late.seen.ups.empty()) << "not before connect() has returned";
    ASSERT_TRUE(pump({&early, &late}, [&] {
      return late.seen.ups.size() == 1 && late.seen.frames.size() == (speaks ? 50u : 0u);
    }));
    EXPECT_TRUE(early.seen.downs.empty());
    EXPECT_EQ(late.plane->counters().rejected_garbage, 0u);
    if (speaks) {
      EXPECT_EQ(late.seen.frames[49], bytesOf("word 49"));
    }
  }
}

TEST(Plane, NobodyWantsAParkedPeer) {
  Plane early(1);
  Plane late(2, "job secret", [](Config& config) { config.parking_time = 50ms; });
  early.connect(0, late);
  ASSERT_TRUE(pump({&early, &late}, [&] { return !early.seen.downs.empty(); }));
  EXPECT_EQ(late.plane->counters().rejected_timeout, 1u);
  EXPECT_TRUE(late.seen.ups.empty());
}

TEST(Plane, ManyPeersOnOnePlane) {
  constexpr std::uint32_t kOthers = 20;
  Plane center(1000);
  std::vector<std::unique_ptr<Plane>> others;
  std::vector<Plane*> all{&center};
  for (std::uint32_t i = 0; i < kOthers; ++i) {
    others.push_back(std::make_unique<Plane>(i < kOthers / 2 ? i + 1 : 2000 + i));
    all.push_back(others.back().get());
    center.connect(i, *others[i]);
    others[i]->connect(0, center);
  }
  ASSERT_TRUE(pump(all, [&] { return center.seen.ups.size() == kOthers; }));
  for (std::uint32_t i = 0; i < kOthers; ++i) center.send(i, std::to_string(i));
  for (std::uint32_t i = 0; i < kOthers; ++i) {
    ASSERT_TRUE(pump(all, [&] { return others[i]->seen.frames.size() == 1; }));
    EXPECT_EQ(others[i]->seen.frames[0], bytesOf(std::to_string(i)));
  }
}

TEST(Wait, EndsByWakeFromAnotherThread) {
  Plane a(1);
  std::atomic<int> woken{0};
  std::thread waiter([&] {
    for (int i = 0; i < 200; ++i) {
      a.wait(kPatience);
      ++woken;
    }
  });
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (woken < 200 && std::chrono::steady_clock::now() < end) a.plane->wake();
  waiter.join();
  EXPECT_EQ(woken, 200);
}

TEST(Wait, LastsNoLongerThanAsked) {
  Plane a(1);
  const auto start = std::chrono::steady_clock::now();
  a.wait(20ms);
  const auto waited = std::chrono::steady_clock::now() - start;
  EXPECT_GE(waited, 19ms);
  EXPECT_LT(waited, 5s);
  a.wait(0ms);
}

TEST(Wait, TheWatchedDescriptorEndsItButNotANap) {
  Plane a(1);
  const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  a.plane->watch(fd);
  const auto timed = [&](auto call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    return std::chrono::steady_clock::now() - start;
  };
  EXPECT_GE(timed([&] { a.wait(20ms); }), 19ms);
  ASSERT_EQ(eventfd_write(fd, 1), 0);
  // Readable and not read: ends every wait at once, also the tenth.
  for (int i = 0; i < 10; ++i) EXPECT_LT(timed([&] { a.wait(kPatience); }), 10s);
  EXPECT_GE(timed([&] { a.nap(20ms); }), 19ms);
  EXPECT_LT(timed([&] { a.wait(kPatience); }), 10s);
  a.plane->shutdown(10);
  a.plane.reset();
  EXPECT_EQ(eventfd_write(fd, 1), 0) << "the plane closed a descriptor that is not its own";
  close(fd);
}

}  // namespace
}  // namespace papilio::control::testing
