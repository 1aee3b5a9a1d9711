// Peers in other processes that die or stand still, and strangers on the port.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "ucx_transport/lanes.hpp"

namespace papilio::ucx::testing {
namespace {

constexpr std::size_t kChunk = 256 * 1024;

// A parent with data both ways to a child.
struct Pair {
  Lane lane{1};
  Child child{lane};
  SendToken next = 0;

  Pair() {
    lane.seen.keep = false;
    lane.transport->connect(PeerId{0}, ProcessId{Child::kProcess}, child.address());
  }
  void fill(std::size_t window) {
    while (lane.open() < window && lane.send(0, Bytes(64), Bytes(kChunk), next)) ++next;
  }
  bool flowing() {
    fill(8);
    return pump({&lane}, [&] {
      fill(8);
      return lane.seen.received >= 8 && next >= 24;
    });
  }
};

TEST(Killed, WithDataBothWaysEverySendCompletesOnce) {
  {
    Lane warm(9);
  }
  const auto before = openDescriptors();
  for (int i = 0; i < 5; ++i) {
    Pair pair;
    ASSERT_TRUE(pair.flowing());
    pair.fill(16);
    pair.child.kill(SIGKILL);
    ASSERT_TRUE(pump({&pair.lane},
                     [&] { return !pair.lane.seen.errors.empty() && pair.lane.open() == 0; }));
    EXPECT_EQ(pair.lane.seen.errors.size(), 1u);
    EXPECT_EQ(pair.lane.seen.errors[0].first, PeerId{0});
    for (const auto& [token, times] : pair.lane.seen.done) EXPECT_EQ(times, 1);
    EXPECT_FALSE(pair.lane.send(0, Bytes(64), Bytes(10), 100'000));
    pair.lane.transport->disconnect(PeerId{0}, true);  // what the engine does a moment later
    for (int k = 0; k < 100; ++k) pair.lane.transport->progress();
    EXPECT_EQ(pair.lane.seen.errors.size(), 1u) << "once";
    EXPECT_TRUE(pair.lane.transport->shutdown(2000));
  }
  EXPECT_EQ(openDescriptors(), before);
}

TEST(Killed, KnownFirstByTheControlPlane) {
  Pair pair;
  ASSERT_TRUE(pair.flowing());
  pair.fill(16);
  pair.child.kill(SIGKILL);
  pair.lane.transport->disconnect(PeerId{0}, true);
  ASSERT_TRUE(pump({&pair.lane}, [&] { return pair.lane.open() == 0; }));
  for (const auto& [token, times] : pair.lane.seen.done) EXPECT_EQ(times, 1);
  EXPECT_TRUE(pair.lane.transport->shutdown(2000));
}

TEST(Killed, TheOthersGoOn) {
  Pair pair;
  Lane other(3);
  pair.lane.connect(1, other);
  other.connect(0, pair.lane);
  ASSERT_TRUE(pair.flowing());
  pair.child.kill(SIGKILL);
  ASSERT_TRUE(pump({&pair.lane, &other}, [&] { return !pair.lane.seen.errors.empty(); }));
  ASSERT_TRUE(pair.lane.send(1, Bytes(64), Bytes(kChunk), 200'000));
  ASSERT_TRUE(pump({&pair.lane, &other}, [&] { return other.seen.received == 1; }));
}

TEST(Stopped, ProgressDoesNotBlockAndTheRestIsSentLater) {
  Pair pair;
  ASSERT_TRUE(pair.flowing());
  pair.child.kill(SIGSTOP);
  // Its socket buffers fill; sends stay open, and every call still returns at once.
  for (int i = 0; i < 64; ++i) pair.fill(pair.lane.open() + 1);
  pump({&pair.lane}, [] { return false; }, 300ms);
  EXPECT_GT(pair.lane.open(), 0u);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 1000; ++i) pair.lane.transport->progress();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 2s);
  EXPECT_TRUE(pair.lane.seen.errors.empty()) << "a stop is no death";
  pair.child.kill(SIGCONT);
  ASSERT_TRUE(pump({&pair.lane}, [&] { return pair.lane.open() == 0; }));
  for (const auto& [token, times] : pair.lane.seen.done) EXPECT_EQ(times, 1);
}

TEST(Stopped, ShutdownIsBounded) {
  {
    Lane warm(9);
  }
  const auto before = openDescriptors();
  {
    Pair pair;
    ASSERT_TRUE(pair.flowing());
    pair.child.kill(SIGSTOP);
    for (int i = 0; i < 64; ++i) pair.fill(pair.lane.open() + 1);
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_TRUE(pair.lane.transport->shutdown(1000));
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 1500ms);
    EXPECT_EQ(pair.lane.open(), 0u);
    pair.lane.transport.reset();
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 2s);
  }
  EXPECT_EQ(openDescriptors(), before);
}

// A TCP socket of this process, as the kernel lists it.
struct Socket {
  std::uint16_t local = 0;
  std::uint16_t remote = 0;
  bool listening = false;
};

std::vector<Socket> socketsOfThisProcess() {
  std::set<std::string> inodes;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const auto target = std::filesystem::read_symlink(entry, error).string();
    if (target.rfind("socket:[", 0) == 0) inodes.insert(target.substr(8, target.size() - 9));
  }
  const auto port = [](const std::string& address) {
    return static_cast<std::uint16_t>(
        std::stoul(address.substr(address.find(':') + 1), nullptr, 16));
  };
  std::vector<Socket> out;
  std::ifstream table("/proc/self/net/tcp");
  std::string line;
  std::getline(table, line);
  while (std::getline(table, line)) {
    std::istringstream fields(line);
    std::string slot, local, remote, state, skip, inode;
    fields >> slot >> local >> remote >> state >> skip >> skip >> skip >> skip >> skip >> inode;
    if (inodes.contains(inode)) out.push_back({port(local), port(remote), state == "0A"});
  }
  return out;
}

std::set<std::uint16_t> listeningPorts() {
  std::set<std::uint16_t> out;
  for (const auto& socket : socketsOfThisProcess()) {
    if (socket.listening) out.insert(socket.local);
  }
  return out;
}

// How many sockets this process still holds whose other end was one of these ports.
std::size_t socketsTo(const std::set<std::uint16_t>& ports) {
  const auto sockets = socketsOfThisProcess();
  return static_cast<std::size_t>(std::count_if(
      sockets.begin(), sockets.end(), [&](const Socket& s) { return ports.contains(s.remote); }));
}

class Stranger {
 public:
  explicit Stranger(std::uint16_t port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    socklen_t size = sizeof address;
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  ~Stranger() { close(fd_); }
  std::uint16_t port() const { return port_; }
  void say(const Bytes& bytes) {
    static_cast<void>(::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
  }

 private:
  int fd_;
  std::uint16_t port_ = 0;
};

TEST(Port, GarbageLeavesNoTraceAndTrafficGoesOn) {
  Lane a(1), b(2);
  a.connect(0, b);
  b.connect(0, a);
  a.seen.keep = b.seen.keep = false;
  SendToken next = 0;
  ASSERT_TRUE(a.send(0, Bytes(64), Bytes(kChunk), next++));
  ASSERT_TRUE(pump({&a, &b}, [&] { return b.seen.received == 1; }));
  const auto ports = listeningPorts();
  ASSERT_FALSE(ports.empty());
  std::set<std::uint16_t> strangers;
  for (const auto port : ports) {
    for (unsigned seed = 0; seed < 20; ++seed) {
      Stranger stranger(port);
      strangers.insert(stranger.port());
      ASSERT_TRUE(pump({&a, &b}, [&] { return socketsTo({stranger.port()}) == 1; })) << "let in";
      auto bytes = pattern(seed % 2 == 0 ? 100'000 : 8, seed);
      if (bytes[0] == std::byte{'A'}) bytes[0] = std::byte{0};  // surely not UCX's magic
      stranger.say(bytes);
      const auto expected = b.seen.received + 1;
      ASSERT_TRUE(a.send(0, Bytes(64), Bytes(kChunk), next++));
      ASSERT_TRUE(pump({&a, &b}, [&] { return b.seen.received == expected; }));
    }
  }
  // Not a count of all descriptors: a and b may have dialled each other at once, and UCX closes
  // the second of those connections when it likes.
  EXPECT_TRUE(pump({&a, &b}, [&] { return socketsTo(strangers) == 0; }));
  EXPECT_TRUE(a.seen.errors.empty());
  EXPECT_TRUE(b.seen.errors.empty());
}

}  // namespace
}  // namespace papilio::ucx::testing
