// Whoever comes to the port without being one of us is counted and dropped.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <random>

#include "control/planes.hpp"

namespace papilio::control::testing {
namespace {

std::vector<std::byte> noise(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> out(size);
  for (auto& byte : out) byte = static_cast<std::byte>(random());
  return out;
}

// After whatever happened, two honest peers still find each other.
void expectStillWorks(Plane& plane, std::uint64_t other_id) {
  Plane other(other_id);
  plane.connect(0, other);
  other.connect(0, plane);
  ASSERT_TRUE(pump({&plane, &other}, [&] { return plane.seen.ups.size() == 1; }));
  other.send(0, "hello");
  ASSERT_TRUE(pump({&plane, &other}, [&] { return plane.seen.frames.size() == 1; }));
}

TEST(Stranger, GarbageOfManySizes) {
  Plane plane(5);
  const std::size_t sizes[] = {5, 6, 40, 100, 4096, 70'000, 1 << 20};
  std::uint64_t expected = 0;
  for (const auto size : sizes) {
    for (unsigned seed = 0; seed < 5; ++seed) {
      Stranger stranger(plane.port());
      auto bytes = noise(size, seed);
      bytes[4] |= std::byte{0x80};  // no kind of ours, whatever the length says
      stranger.send(bytes);
      ++expected;
      ASSERT_TRUE(pump({&plane}, [&] { return stranger.closed(); }));
    }
  }
  EXPECT_EQ(plane.plane->counters().rejected_garbage, expected);
  expectStillWorks(plane, 6);
}

TEST(Stranger, FramesOfTheRightFormOutOfOrder) {
  Plane plane(5);
  const auto body = greeting(makeNonce());
  for (const auto kind : {Kind::hello, Kind::data, Kind::ping, Kind::pong, Kind::bye}) {
    Stranger stranger(plane.port());
    stranger.send(kind, body);
    ASSERT_TRUE(pump({&plane}, [&] { return stranger.closed(); }));
  }
  {
    Stranger twice(plane.port());
    twice.send(Kind::greeting, body);
    twice.send(Kind::greeting, body);
    ASSERT_TRUE(pump({&plane}, [&] { return twice.closed(); }));
  }
  EXPECT_EQ(plane.plane->counters().rejected_garbage, 6u);
  expectStillWorks(plane, 6);
}

TEST(Stranger, AnOversizedFrameIsNotWaitedFor) {
  Plane plane(5);
  Stranger stranger(plane.port());
  const std::uint32_t length = 0x7fffffff;
  std::vector<std::byte> prefix(5);
  std::memcpy(prefix.data(), &length, sizeof length);
  prefix[4] = static_cast<std::byte>(Kind::greeting);
  stranger.send(prefix);
  ASSERT_TRUE(pump({&plane}, [&] { return stranger.closed(); }));
  EXPECT_EQ(plane.plane->counters().rejected_garbage, 1u);
}

TEST(Stranger, HalfAHandshakeTimesOut) {
  Plane plane(5, "job secret", [](Config& config) { config.handshake_timeout = 50ms; });
  Stranger silent(plane.port());
  Stranger slow(plane.port());
  std::vector<std::byte> begun{std::byte{kGreetingBytes}, {}, {}, {}, std::byte{1}};
  begun.resize(20);  // a greeting's prefix and less than half of it
  slow.send(begun);
  Stranger greeted(plane.port());
  greeted.send(Kind::greeting, greeting(makeNonce()));
  ASSERT_TRUE(pump({&plane}, [&] { return silent.closed() && slow.closed() && greeted.closed(); }));
  EXPECT_EQ(plane.plane->counters().rejected_timeout, 3u);
  EXPECT_EQ(plane.plane->counters().rejected_garbage, 0u);
  expectStillWorks(plane, 6);
}

TEST(Stranger, AWrongSecretIsSaidToTheUserAndCounted) {
  Plane dialer(1, "this secret");
  Plane listener(2, "that secret");
  dialer.connect(0, listener);
  listener.connect(0, dialer, 300ms);
  ASSERT_TRUE(pump({&dialer, &listener},
                   [&] { return !dialer.seen.downs.empty() && !listener.seen.downs.empty(); }));
  EXPECT_EQ(dialer.seen.downs[0].cause, DownCause::rejected);
  EXPECT_NE(dialer.seen.downs[0].detail.find("PAPILIO_SECRET"), std::string::npos);
  EXPECT_EQ(listener.seen.downs[0].cause, DownCause::unreachable);
  EXPECT_GE(
      listener.plane->counters().rejected_secret + listener.plane->counters().rejected_garbage, 1u);
  EXPECT_TRUE(dialer.seen.ups.empty());
  EXPECT_TRUE(listener.seen.ups.empty());
}

// Somebody listened to a handshake and plays the dialer's part again.
TEST(Stranger, AReplayedHelloDoesNotOpen) {
  Plane plane(5);
  Stranger first(plane.port());
  const Nonce nonce = makeNonce();
  first.send(Kind::greeting, greeting(nonce));
  std::optional<std::vector<std::byte>> theirs;
  ASSERT_TRUE(pump({&plane}, [&] {
    theirs = first.take(Kind::greeting);
    return theirs.has_value();
  }));
  const Session session{nonce, *parseGreeting(*theirs)};
  PeerHello hello;
  hello.process = ProcessId{6};
  const auto sealed = sealHello(hello, Role::dialer, session, bytesOf("job secret"));

  Stranger replay(plane.port());
  replay.send(Kind::greeting, greeting(nonce));
  replay.send(Kind::hello, sealed);
  ASSERT_TRUE(pump({&plane}, [&] { return replay.closed(); }));
  EXPECT_EQ(plane.plane->counters().rejected_secret, 1u);

  first.send(Kind::hello, sealed);  // the real one opens, and its answer proves the plane's secret
  std::optional<std::vector<std::byte>> answer;
  ASSERT_TRUE(pump({&plane}, [&] {
    if (!answer) answer = first.take(Kind::hello);
    return answer.has_value();
  }));
  PeerHello out;
  EXPECT_EQ(openHello(*answer, Role::listener, session, bytesOf("job secret"), out),
            HelloError::none);
  EXPECT_EQ(out.process, ProcessId{5});
}

TEST(Stranger, ASecondConnectionOfAConnectedProcessIsRefused) {
  Plane a(1), b(2);
  join(a, b);
  Stranger twin(b.port());
  const Nonce nonce = makeNonce();
  twin.send(Kind::greeting, greeting(nonce));
  std::optional<std::vector<std::byte>> theirs;
  ASSERT_TRUE(pump({&a, &b}, [&] {
    theirs = twin.take(Kind::greeting);
    return theirs.has_value();
  }));
  PeerHello hello;
  hello.process = ProcessId{1};
  twin.send(Kind::hello, sealHello(hello, Role::dialer, {nonce, *parseGreeting(*theirs)},
                                   bytesOf("job secret")));
  ASSERT_TRUE(pump({&a, &b}, [&] { return twin.closed(); }));
  EXPECT_EQ(b.plane->counters().rejected_duplicate, 1u);
  a.send(0, "still here");
  ASSERT_TRUE(pump({&a, &b}, [&] { return b.seen.frames.size() == 1; }));
  EXPECT_TRUE(b.seen.downs.empty());
}

// Silent connections cost a bounded number of descriptors, do not keep real peers out, and are gone
// in the end.
TEST(Stranger, ACrowdOfSilentOnes) {
  const auto before = openDescriptors();
  {
    Plane plane(5, "job secret", [](Config& config) { config.handshake_timeout = 400ms; });
    const auto own = openDescriptors();
    std::list<Stranger> crowd;
    for (int i = 0; i < 300; ++i) {
      crowd.emplace_back(plane.port());
      plane.wait(0ms);
      EXPECT_LE(openDescriptors(), own + crowd.size() + 66);
    }
    expectStillWorks(plane, 6);
    ASSERT_TRUE(pump({&plane}, [&] {
      return std::all_of(crowd.begin(), crowd.end(), [](Stranger& s) { return s.closed(); });
    }));
    EXPECT_EQ(plane.plane->counters().rejected_timeout, 300u);
    EXPECT_FALSE(plane.log.empty());
  }
  EXPECT_EQ(openDescriptors(), before);
}

// Known by the secret, bad manners afterwards.
TEST(Stranger, APeerThatBreaksTheRulesLater) {
  for (const int breach : {0, 1, 2}) {
    Plane plane(5);
    Plane shadow(4);  // only lends its record
    Stranger peer(plane.port());
    plane.connect(0, shadow);
    const Nonce nonce = makeNonce();
    peer.send(Kind::greeting, greeting(nonce));
    std::optional<std::vector<std::byte>> theirs;
    ASSERT_TRUE(pump({&plane}, [&] {
      theirs = peer.take(Kind::greeting);
      return theirs.has_value();
    }));
    PeerHello hello;
    hello.process = ProcessId{4};
    peer.send(Kind::hello, sealHello(hello, Role::dialer, {nonce, *parseGreeting(*theirs)},
                                     bytesOf("job secret")));
    ASSERT_TRUE(pump({&plane}, [&] { return plane.seen.ups.size() == 1; }));
    if (breach == 0) peer.send(Kind::data, std::vector<std::byte>(513));
    if (breach == 1) peer.send(Kind::greeting, greeting(nonce));
    if (breach == 2) peer.send(noise(100'000, 1));
    ASSERT_TRUE(pump({&plane}, [&] { return plane.seen.downs.size() == 1; }));
    EXPECT_EQ(plane.seen.downs[0].cause, DownCause::connection_reset);
    EXPECT_EQ(plane.plane->counters().rejected_garbage, 1u);
    EXPECT_TRUE(plane.seen.frames.empty());
  }
}

}  // namespace
}  // namespace papilio::control::testing
