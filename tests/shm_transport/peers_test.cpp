// Peers that are killed, stopped, or not what they claim to be.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "shm_transport/doorbell.hpp"
#include "shm_transport/lanes.hpp"
#include "shm_transport/segment.hpp"
#include "shm_transport/shm_address.hpp"

namespace papilio::shm::testing {
namespace {

constexpr PeerId kPeer{0};

std::size_t openDescriptors() {
  const std::filesystem::directory_iterator list("/proc/self/fd"), end;
  return static_cast<std::size_t>(std::distance(list, end));
}

bool mapped(const std::string& file, const std::string& what) {
  std::ifstream maps(file);
  for (std::string line; std::getline(maps, line);) {
    if (line.find(what) != std::string::npos) return true;
  }
  return false;
}

std::set<std::string> names() {
  std::set<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    out.insert(entry.path().filename());
  }
  return out;
}

// Every payload of the child is one value: foreign or torn bytes show.
void expectWhole(std::span<const std::byte> payload) {
  ASSERT_EQ(payload.size(), Child::kPayload);
  ASSERT_EQ(std::memcmp(payload.data(), payload.data() + 1, payload.size() - 1), 0);
  ASSERT_NE(payload[0], std::byte{0xee}) << "read after its memory was free";
}

TEST(ShmPeers, AKilledSenderLeavesWholeMessagesAndNothingElse) {
  const auto before = names();
  Lane a(1);
  a.seen.keep = false;
  a.seen.on_message = expectWhole;
  const auto descriptors = openDescriptors();
  for (int round = 0; round < 10; ++round) {
    const PeerId peer{static_cast<std::uint32_t>(round)};
    Child child(a, Child::Role::sender);
    a.transport->connect(peer, ProcessId{Child::kProcess}, child.address());
    const auto enough = a.seen.received + 20 + static_cast<std::uint64_t>(round) * 7;
    ASSERT_TRUE(pump({&a}, [&] { return a.seen.received >= enough; }));
    child.kill(SIGKILL);
    child.end();
    a.transport->disconnect(peer, true);
    EXPECT_FALSE(a.send(static_cast<std::uint32_t>(round), Bytes(64), Bytes(10), 1));
  }
  EXPECT_TRUE(a.seen.errors.empty());
  EXPECT_EQ(openDescriptors(), descriptors);
  EXPECT_EQ(names(), before);
}

// What it had published when it died is read when its death is known.
TEST(ShmPeers, LastWordsOfADeadSenderCount) {
  Lane a(1);
  a.seen.keep = false;
  a.seen.on_message = expectWhole;
  Child child(a, Child::Role::sender);
  a.transport->connect(kPeer, ProcessId{Child::kProcess}, child.address());
  ASSERT_TRUE(pump({&a}, [&] { return a.seen.received >= 3; }));
  const auto read = a.seen.received;
  // Something more has arrived, which nobody has looked at.
  pollfd bell{a.transport->eventFd(), POLLIN, 0};
  while (a.transport->arm()) ASSERT_EQ(poll(&bell, 1, 10'000), 1);
  child.end();
  a.transport->disconnect(kPeer, true);
  EXPECT_GT(a.seen.received, read);
}

// A waiting thread is woken by a bell of its own; the progress thread sleeps on.
// Memory that is held can be read when its owner is dead and the link to it is gone.
TEST(ShmPeers, WhatIsHeldOutlivesTheDead) {
  Lane a(1);
  a.seen.keep = false;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> hold;
  a.seen.on_message = [&](std::span<const std::byte> payload) {
    if (hold) return;
    bytes = payload;
    hold = a.transport->hold(payload);
  };
  Child child(a, Child::Role::sender);
  a.transport->connect(kPeer, ProcessId{Child::kProcess}, child.address());
  ASSERT_TRUE(pump({&a}, [&] { return hold != nullptr; }));
  const auto received = a.seen.received;
  child.kill(SIGKILL);
  child.end();
  a.transport->disconnect(kPeer, true);
  EXPECT_GE(a.seen.received, received);
  expectWhole(bytes);
  hold.reset();
}

TEST(ShmPeers, WakesTheThreadThatSleeps) {
  Lane a(1);
  Lane b(2);
  a.connect(0, b);
  b.connect(0, a);
  const auto up = [](Lane& lane) { return lane.transport->laneName(PeerId{0}) == "shm"; };
  ASSERT_TRUE(pump({&a, &b}, [&] { return up(a) && up(b); }));
  const auto readable = [](int fd) {
    pollfd event{fd, POLLIN, 0};
    return poll(&event, 1, 0) == 1;
  };
  const auto quietFor = [&](auto arm) {
    return pump({&a, &b}, [&] { return arm() && !readable(a.transport->eventFd()); });
  };
  for (SendToken token = 0; token < 6; token += 2) {
    ASSERT_TRUE(quietFor([&] { return a.transport->armWaiter(); }));
    ASSERT_TRUE(b.send(0, Bytes(64), Bytes(100), token));
    EXPECT_TRUE(readable(a.transport->waiterFd()));
    EXPECT_FALSE(readable(a.transport->eventFd()));
    EXPECT_EQ(a.transport->progress(), 1u);
    EXPECT_FALSE(readable(a.transport->waiterFd()));
    ASSERT_TRUE(quietFor([&] { return a.transport->arm(); }));
    ASSERT_TRUE(b.send(0, Bytes(64), Bytes(100), token + 1));
    EXPECT_TRUE(readable(a.transport->eventFd()));
    EXPECT_FALSE(readable(a.transport->waiterFd()));
    EXPECT_EQ(a.transport->progress(), 1u);
  }
}

TEST(ShmPeers, SendsToAStoppedPeerWaitAndArriveWhenItGoesOn) {
  Lane a(1);
  Child child(a, Child::Role::receiver);
  a.transport->connect(kPeer, ProcessId{Child::kProcess}, child.address());
  ASSERT_TRUE(pump({&a}, [&] { return a.transport->laneName(kPeer) == "shm"; }));
  child.kill(SIGSTOP);
  waitpid(child.pid(), nullptr, WUNTRACED);
  for (SendToken token = 0; token < 5; ++token) {
    ASSERT_TRUE(a.send(0, Bytes(64), Bytes(Child::kPayload, std::byte{3}), token));
  }
  for (int i = 0; i < 1000; ++i) a.transport->progress();
  EXPECT_TRUE(a.seen.done.empty());
  child.kill(SIGCONT);
  ASSERT_TRUE(pump({&a}, [&] { return a.seen.done.size() == 5; }));
  for (const auto& [token, delivered] : a.seen.done) EXPECT_EQ(delivered, std::vector<bool>{true});
}

TEST(ShmPeers, ShutdownDoesNotWaitForAStoppedPeer) {
  auto a = std::make_unique<Lane>(1);
  Child child(*a, Child::Role::receiver);
  a->transport->connect(kPeer, ProcessId{Child::kProcess}, child.address());
  ASSERT_TRUE(pump({a.get()}, [&] { return a->transport->laneName(kPeer) == "shm"; }));
  child.kill(SIGSTOP);
  waitpid(child.pid(), nullptr, WUNTRACED);
  ASSERT_TRUE(a->send(0, Bytes(64), Bytes(Child::kPayload), 1));
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(a->transport->shutdown(1000));
  EXPECT_EQ(a->seen.done[1], std::vector<bool>{false});
  a.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(500));
  EXPECT_FALSE(mapped("/proc/self/maps", "memfd:papilio"));
}

// A peer that may live on still reads what is pending: its memory is not free.
TEST(ShmPeers, PendingSendsOfALivePeerStayPending) {
  Lane a(1), b(2);
  a.connect(0, b);
  b.connect(0, a);
  ASSERT_TRUE(pump({&a, &b}, [&] { return a.transport->laneName(kPeer) == "shm"; }));
  ASSERT_TRUE(a.send(0, Bytes(64), Bytes(1000), 1));
  a.transport->disconnect(kPeer, false);
  for (int i = 0; i < 10; ++i) a.transport->progress();
  EXPECT_TRUE(a.seen.done.empty());
  EXPECT_NE(a.transport->laneName(kPeer), "shm");
  a.transport->disconnect(kPeer, true);
  EXPECT_EQ(a.seen.done[1], std::vector<bool>{false});
}

TEST(ShmPeers, AChildOfForkHasNoneOfIt) {
  Lane a(1), b(2);
  a.connect(0, b);
  ASSERT_TRUE(mapped("/proc/self/maps", "memfd:papilio"));
  const pid_t child = fork();
  if (child == 0) _exit(mapped("/proc/self/maps", "memfd:papilio") ? 1 : 0);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// A peer under the test's control, down to every word of its segment.
struct Liar {
  OwnSegment segment;
  Doorbell bell;
  Address address{"here", static_cast<std::uint32_t>(getpid()), 0, 0, 0, {}};
  Slot* slot = nullptr;

  Liar() {
    address.segment_fd = segment.fd();
    address.bell_fd = bell.writeFd();
    address.waiter_bell_fd = bell.writeFd();
    address.nonce = segment.nonce();
  }
  Bytes joined() const { return join(address, Bytes(10, std::byte{7})); }
  void offerTo(Lane& lane) {
    slot = &segment.control().slots[5];
    segment.control().directory[5].store(lane.process.value);
    lane.transport->connect(kPeer, ProcessId{9}, joined());
  }
};

void expectRefused(const Bytes& address) {
  Lane a(1);
  a.transport->connect(kPeer, ProcessId{9}, address);
  EXPECT_NE(a.transport->laneName(kPeer), "shm");
  EXPECT_FALSE(mapped("/proc/self/maps", "liar"));
}

TEST(ShmPeers, OnlyTheAnnouncedSegmentIsMapped) {
  Liar liar;
  auto wrong = liar.address;
  wrong.nonce[1] ^= 1;
  expectRefused(join(wrong, {}));
  wrong = liar.address;
  wrong.segment_fd = 9999;
  expectRefused(join(wrong, {}));
  wrong = liar.address;
  wrong.pid = 0;
  expectRefused(join(wrong, {}));
  wrong = liar.address;
  wrong.bell_fd = wrong.segment_fd;
  expectRefused(join(wrong, {}));
  wrong = liar.address;
  wrong.waiter_bell_fd = wrong.segment_fd;
  expectRefused(join(wrong, {}));
  // Could shrink under the reader: SIGBUS.
  const int loose = memfd_create("liar", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(ftruncate(loose, kSegmentBytes), 0);
  wrong = liar.address;
  wrong.segment_fd = loose;
  expectRefused(join(wrong, {}));
  ASSERT_EQ(fcntl(loose, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
  expectRefused(join(wrong, {}));  // sealed, but empty
  close(loose);
}

TEST(ShmPeers, DamagedAddressesAreRefused) {
  Liar liar;
  const Bytes good = liar.joined();
  for (std::size_t size = 0; size < good.size(); ++size) {
    const Parts parts = split(std::span(good).first(size));
    EXPECT_FALSE(parts.own) << size;
  }
  ASSERT_TRUE(split(good).own);
  EXPECT_EQ(split(good).other_lane.size(), 10u);
  Bytes huge = good;
  std::memset(huge.data(), 0xff, 4);  // the other lane's length
  EXPECT_FALSE(split(huge).own);
  EXPECT_TRUE(split(huge).other_lane.empty());
}

// Each lie breaks the lane to that peer once, with a reason, and touches nothing outside.
void expectBroken(const std::function<void(Slot&, Liar&)>& lie, const std::string& why) {
  Liar liar;
  Lane a(1);
  liar.offerTo(a);
  a.transport->progress();
  ASSERT_EQ(a.transport->laneName(kPeer), "shm");
  ASSERT_TRUE(a.send(0, Bytes(64), Bytes(10), 1));
  lie(*liar.slot, liar);
  for (int i = 0; i < 5; ++i) a.transport->progress();
  ASSERT_EQ(a.seen.errors.size(), 1u) << why;
  EXPECT_NE(a.seen.errors[0].second.find(why), std::string::npos) << a.seen.errors[0].second;
  EXPECT_EQ(a.seen.received, 0u);
  EXPECT_TRUE(a.seen.done.empty()) << "it may still read what is pending";
  EXPECT_NE(a.transport->laneName(kPeer), "shm");
}

TEST(ShmPeers, LiesBreakOnlyTheLiarsLane) {
  const auto publish = [](Slot& slot, std::uint32_t header, std::uint64_t offset,
                          std::uint32_t bytes) {
    slot.ring[0].header_bytes = header;
    slot.ring[0].payload_offset = offset;
    slot.ring[0].payload_bytes = bytes;
    slot.published.store(1);
  };
  expectBroken([](Slot& slot, Liar&) { slot.taken.store(2); }, "were not sent");
  expectBroken([](Slot& slot, Liar&) { slot.published.store(kRingEntries + 1); }, "jumped");
  expectBroken([](Slot& slot, Liar&) { slot.published.store(~0ULL); }, "jumped");
  const std::string outside = "outside";
  expectBroken([&](Slot& slot, Liar&) { publish(slot, 1000, kArenaOffset, 10); }, outside);
  expectBroken([&](Slot& slot, Liar&) { publish(slot, 64, 0, 10); }, outside);
  expectBroken([&](Slot& slot, Liar&) { publish(slot, 64, kArenaOffset - 1, 10); }, outside);
  expectBroken([&](Slot& slot, Liar&) { publish(slot, 64, kSegmentBytes - 9, 10); }, outside);
  expectBroken([&](Slot& slot, Liar&) { publish(slot, 64, ~0ULL - 5, 10); }, outside);
  expectBroken([&](Slot& slot, Liar&) { publish(slot, 64, kArenaOffset, ~0U); }, outside);
}

TEST(ShmPeers, AnHonestEntryOfTheSameFormIsRead) {
  Liar liar;
  Lane a(1);
  liar.offerTo(a);
  a.transport->progress();
  std::byte* data = liar.segment.take(4096);
  std::memset(data, 5, 10);
  liar.slot->ring[0].header_bytes = 64;
  liar.slot->ring[0].payload_offset = liar.segment.offsetOf({data, 10});
  liar.slot->ring[0].payload_bytes = 10;
  liar.slot->published.store(1);
  a.transport->progress();
  ASSERT_EQ(a.seen.messages.size(), 1u);
  EXPECT_EQ(a.seen.messages[0].payload, Bytes(10, std::byte{5}));
  EXPECT_TRUE(a.seen.errors.empty());
}

}  // namespace
}  // namespace papilio::shm::testing
