// Transports of one process over loopback.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

#include "ucx_transport/lanes.hpp"

namespace papilio::ucx::testing {
namespace {

constexpr std::size_t kChunk = 256 * 1024;

TEST(Transport, MessagesOfAllSizesArriveIntact) {
  Lane a(1), b(2);
  a.connect(0, b);
  b.connect(0, a);
  std::vector<std::size_t> sizes{0, 1, 7, 8, 63, 64, 1000, 8191, 8192, 65'536, 100'000};
  for (std::size_t off : {2u, 1u, 0u}) sizes.push_back(kChunk - off);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto seed = static_cast<unsigned>(i);
    ASSERT_TRUE(a.send(0, pattern(64 + i, seed), pattern(sizes[i], seed + 100), i));
  }
  ASSERT_TRUE(
      pump({&a, &b}, [&] { return b.seen.messages.size() == sizes.size() && a.open() == 0; }));
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto seed = static_cast<unsigned>(i);
    EXPECT_EQ(b.seen.messages[i].from, PeerId{0});
    EXPECT_EQ(b.seen.messages[i].header, pattern(64 + i, seed));
    EXPECT_EQ(b.seen.messages[i].payload, pattern(sizes[i], seed + 100)) << sizes[i];
    EXPECT_EQ(a.seen.done[i], 1);
    EXPECT_TRUE(a.seen.delivered[i]);
  }
}

TEST(Transport, ManyMessagesBothWaysAmongFour) {
  std::vector<std::unique_ptr<Lane>> lanes;
  std::vector<Lane*> all;
  for (std::uint64_t i = 0; i < 4; ++i) {
    lanes.push_back(std::make_unique<Lane>(i + 1));
    all.push_back(lanes.back().get());
    all.back()->seen.keep = false;
  }
  for (std::uint32_t i = 0; i < 4; ++i) {
    for (std::uint32_t k = 0; k < 4; ++k) {
      if (i != k) all[i]->connect(k, *all[k]);
    }
  }
  constexpr SendToken kEach = 100;
  for (SendToken token = 0; token < kEach; ++token) {
    for (std::uint32_t i = 0; i < 4; ++i) {
      for (std::uint32_t k = 0; k < 4; ++k) {
        if (i == k) continue;
        ASSERT_TRUE(all[i]->send(k, Bytes(64), Bytes(20'000), token * 4 + k));
      }
    }
  }
  ASSERT_TRUE(pump(all, [&] {
    return std::all_of(all.begin(), all.end(), [](const Lane* lane) {
      return lane->seen.received == 3 * kEach && lane->open() == 0;
    });
  }));
  for (const auto* lane : all) {
    EXPECT_EQ(lane->seen.done.size(), 3 * kEach);
    for (const auto& [token, times] : lane->seen.done) EXPECT_EQ(times, 1);
    EXPECT_TRUE(lane->seen.errors.empty());
  }
}

TEST(Transport, RefusesWhatHasNoLane) {
  Lane a(1);
  EXPECT_FALSE(a.send(0, Bytes(64), Bytes(10), 1));
  EXPECT_EQ(a.seen.done.size(), 0u);
  EXPECT_EQ(a.transport->laneName(PeerId{0}), "none");
  Lane b(2);
  a.connect(0, b);
  EXPECT_FALSE(a.send(0, Bytes(400), Bytes(10), 2)) << "a header too long";
}

TEST(Transport, AnEmptyAddressIsAPeerErrorOnce) {
  Lane a(1);
  a.transport->connect(PeerId{0}, ProcessId{2}, {});
  EXPECT_FALSE(a.transport->arm()) << "there is something to report";
  ASSERT_TRUE(pump({&a}, [&] { return !a.seen.errors.empty(); }));
  a.transport->progress();
  EXPECT_EQ(a.seen.errors.size(), 1u);
  EXPECT_FALSE(a.send(0, Bytes(64), Bytes(10), 1));
}

TEST(Transport, LaneNameSaysTransportAndDevice) {
  Lane a(1), b(2);
  a.connect(0, b);
  b.connect(0, a);
  a.send(0, Bytes(64), Bytes(10), 1);
  ASSERT_TRUE(pump({&a, &b}, [&] { return b.seen.received == 1; }));
  EXPECT_EQ(a.transport->laneName(PeerId{0}), "ucx tcp/lo");
  EXPECT_FALSE(version().empty());
}

// Strangers to the table: the sender's process is not known here (yet).
TEST(Transport, MessagesOfUnknownProcessesAreDropped) {
  Lane a(1), b(2);
  a.connect(0, b);
  ASSERT_TRUE(a.send(0, Bytes(64), Bytes(1000), 1));
  ASSERT_TRUE(pump({&a, &b}, [&] { return a.open() == 0; }));
  b.connect(0, a);
  ASSERT_TRUE(a.send(0, Bytes(64), Bytes(2000), 2));
  ASSERT_TRUE(pump({&a, &b}, [&] { return b.seen.received == 1; }));
  EXPECT_EQ(b.seen.messages[0].payload.size(), 2000u);
}

// A live peer is only not posted to any more; what it sends still arrives.
TEST(Transport, DisconnectingALivePeerKeepsTheEndpoint) {
  Lane a(1), b(2);
  a.connect(0, b);
  b.connect(0, a);
  a.send(0, Bytes(64), Bytes(kChunk), 1);
  ASSERT_TRUE(pump({&a, &b}, [&] { return b.seen.received == 1; }));
  const auto before = openDescriptors();
  a.transport->disconnect(PeerId{0}, false);
  EXPECT_FALSE(a.send(0, Bytes(64), Bytes(10), 2));
  b.send(0, Bytes(64), Bytes(kChunk), 3);
  ASSERT_TRUE(pump({&a, &b}, [&] { return a.seen.received == 1 && b.open() == 0; }));
  EXPECT_EQ(openDescriptors(), before);
  EXPECT_TRUE(a.seen.errors.empty());
  EXPECT_TRUE(b.seen.errors.empty());
}

TEST(Transport, AnExceptionOfTheObserverComesOutOfProgress) {
  Lane a(1), b(2);
  a.connect(0, b);
  b.connect(0, a);
  b.seen.on_message = [] { throw std::bad_alloc(); };
  a.send(0, Bytes(64), Bytes(10), 1);
  EXPECT_THROW(pump({&a, &b}, [] { return false; }), std::bad_alloc);
  b.seen.on_message = {};
  a.send(0, Bytes(64), Bytes(10), 2);
  EXPECT_TRUE(pump({&a, &b}, [&] { return b.seen.received == 2; })) << "usable afterwards";
}

TEST(Transport, ShutdownOfAHealthyLaneDrainsAndLeavesNoDescriptor) {
  {
    Lane warm(1);
  }  // UCX opens some things once per process
  const auto before = openDescriptors();
  for (int i = 0; i < 5; ++i) {
    Lane a(1), b(2);
    a.connect(0, b);
    b.connect(0, a);
    for (SendToken token = 0; token < 16; ++token) a.send(0, Bytes(64), Bytes(kChunk), token);
    pump({&a, &b}, [&] { return b.seen.received >= 1; });
    EXPECT_TRUE(a.transport->shutdown(2000));
    EXPECT_EQ(a.open(), 0u) << "every accepted send completed";
    for (const auto& [token, times] : a.seen.done) EXPECT_EQ(times, 1);
    EXPECT_TRUE(b.transport->shutdown(2000));
  }
  EXPECT_EQ(openDescriptors(), before);
}

TEST(Transport, AnUnknownInterfaceIsAClearError) {
  Config config;
  config.self = ProcessId{1};
  config.net_devices = "nosuch0";
  Recorder seen;
  try {
    makeTransport(std::move(config), seen);
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("UCX"), std::string::npos) << error.what();
  }
}

TEST(Transport, TooFewDescriptorsIsAClearError) {
  rlimit old{};
  getrlimit(RLIMIT_NOFILE, &old);
  rlimit tight = old;
  tight.rlim_cur = openDescriptors() + 1;
  setrlimit(RLIMIT_NOFILE, &tight);
  std::string text;
  try {
    Lane lane(1);
  } catch (const std::runtime_error& error) {
    text = error.what();
  }
  setrlimit(RLIMIT_NOFILE, &old);
  EXPECT_NE(text.find("ulimit -n"), std::string::npos) << text;
  Lane again(1);  // and nothing is broken for good
}

}  // namespace
}  // namespace papilio::ucx::testing
