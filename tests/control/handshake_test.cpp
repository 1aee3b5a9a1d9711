// The handshake as pure functions: what opens, and every way in which it must not.
#include "control/handshake.hpp"

#include <gtest/gtest.h>

#include <random>

#include "control/planes.hpp"

namespace papilio::control {
namespace {

using testing::bytesOf;

engine::PeerHello sample() {
  engine::PeerHello hello;
  hello.process = ProcessId{0x1122334455667788};
  hello.incarnation = Incarnation{77};
  hello.pid = 4321;
  hello.host = "machine";
  hello.host_id = "boot pid:[1]";
  hello.address = "10.0.0.3:41532";
  hello.versions = "papilio 0.1.0";
  hello.data_address = bytesOf("an address of the data lane");
  return hello;
}

struct HandshakeTest : ::testing::Test {
  Session session{makeNonce(), makeNonce()};
  std::vector<std::byte> secret = bytesOf("secret");
  engine::PeerHello out;
};

TEST_F(HandshakeTest, OpensWhatWasSealed) {
  const auto sealed = sealHello(sample(), Role::dialer, session, secret);
  ASSERT_EQ(openHello(sealed, Role::dialer, session, secret, out), HelloError::none);
  const auto in = sample();
  EXPECT_EQ(out.process, in.process);
  EXPECT_EQ(out.incarnation, in.incarnation);
  EXPECT_EQ(out.pid, in.pid);
  EXPECT_EQ(out.host, in.host);
  EXPECT_EQ(out.host_id, in.host_id);
  EXPECT_EQ(out.address, in.address);
  EXPECT_EQ(out.versions, in.versions);
  EXPECT_EQ(out.data_address, in.data_address);
}

TEST_F(HandshakeTest, AnotherSecretDoesNotOpen) {
  const auto sealed = sealHello(sample(), Role::dialer, session, secret);
  for (const auto* wrong : {"Secret", "", "secret "}) {
    EXPECT_EQ(openHello(sealed, Role::dialer, session, bytesOf(wrong), out), HelloError::secret);
  }
  EXPECT_EQ(out.process, ProcessId{}) << "nothing of an unproven hello may be used";
}

TEST_F(HandshakeTest, ReflectionAndReplayDoNotOpen) {
  const auto sealed = sealHello(sample(), Role::dialer, session, secret);
  EXPECT_EQ(openHello(sealed, Role::listener, session, secret, out), HelloError::secret)
      << "sent back to its author";
  const Session later{session.dialer, makeNonce()};
  EXPECT_EQ(openHello(sealed, Role::dialer, later, secret, out), HelloError::secret)
      << "recorded and played again";
  const Session swapped{session.listener, session.dialer};
  EXPECT_EQ(openHello(sealed, Role::dialer, swapped, secret, out), HelloError::secret);
}

TEST_F(HandshakeTest, EveryFlippedBitIsSeen) {
  auto sealed = sealHello(sample(), Role::dialer, session, secret);
  for (std::size_t i = 0; i < sealed.size() * 8; ++i) {
    sealed[i / 8] ^= static_cast<std::byte>(1 << (i % 8));
    EXPECT_EQ(openHello(sealed, Role::dialer, session, secret, out), HelloError::secret);
    sealed[i / 8] ^= static_cast<std::byte>(1 << (i % 8));
  }
}

TEST_F(HandshakeTest, CutShortOrTooLong) {
  const auto sealed = sealHello(sample(), Role::dialer, session, secret);
  for (std::size_t size = 0; size < sealed.size(); ++size) {
    const auto part = std::span(sealed).first(size);
    EXPECT_NE(openHello(part, Role::dialer, session, secret, out), HelloError::none);
  }
  const std::vector<std::byte> huge(kMaxHelloBytes + 1);
  EXPECT_EQ(openHello(huge, Role::dialer, session, secret, out), HelloError::malformed);
}

// A peer that knows the secret but sends nonsense: right MAC, body cut or with bytes behind.
TEST_F(HandshakeTest, RightMacOverAMalformedBody) {
  auto hello = sample();
  hello.host = std::string(5000, 'x');  // longer than any text may be: cut by the writer
  const auto sealed = sealHello(hello, Role::dialer, session, secret);
  ASSERT_EQ(openHello(sealed, Role::dialer, session, secret, out), HelloError::none);
  EXPECT_LE(out.host.size(), 1024u);
}

TEST(Greeting, ParsesOnlyItsOwnKind) {
  const Nonce nonce = makeNonce();
  auto bytes = greeting(nonce);
  ASSERT_EQ(bytes.size(), kGreetingBytes);
  EXPECT_EQ(parseGreeting(bytes), nonce);
  EXPECT_EQ(parseGreeting(std::span(bytes).first(kGreetingBytes - 1)), std::nullopt);
  bytes.push_back(std::byte{0});
  EXPECT_EQ(parseGreeting(bytes), std::nullopt);
  bytes.pop_back();
  bytes[0] ^= std::byte{1};
  EXPECT_EQ(parseGreeting(bytes), std::nullopt);
}

TEST(Greeting, NoncesDiffer) { EXPECT_NE(makeNonce(), makeNonce()); }

}  // namespace
}  // namespace papilio::control
