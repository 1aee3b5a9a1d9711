// Peers that die, vanish, freeze or never were; limits and leftovers.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "control/planes.hpp"
#include "control/record.hpp"

namespace papilio::control::testing {
namespace {

// A child process with a plane of its own that answers until it is killed.
class Child {
 public:
  Child(std::uint64_t process, const std::string& parent_record, bool same_host) {
    std::array<int, 2> pipe_fds{};
    if (pipe2(pipe_fds.data(), O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    pid_ = fork();
    if (pid_ == 0) {
      alarm(60);
      run(process, parent_record, same_host, pipe_fds[1]);
    }
    close(pipe_fds[1]);
    std::array<char, 200> text{};
    const auto size = read(pipe_fds[0], text.data(), text.size());
    close(pipe_fds[0]);
    record_.assign(text.data(), size > 0 ? static_cast<std::size_t>(size) : 0);
  }
  ~Child() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  const std::string& record() const { return record_; }
  void kill(int signal) { ::kill(pid_, signal); }
  void wait() {
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  [[noreturn]] static void run(std::uint64_t process, const std::string& parent, bool same_host,
                               int report) {
    Plane plane(process, "job secret", [&](Config& config) {
      config.self.pid = static_cast<std::uint32_t>(getpid());
      config.self.host_id = same_host ? hostIdentity() : "another machine";
    });
    const auto record = plane.record();
    if (write(report, record.data(), record.size()) < 0) _exit(3);
    plane.plane->connect(PeerId{0}, parent, kPatience);
    for (;;) plane.wait(1s);
  }

  pid_t pid_ = -1;
  std::string record_;
};

TEST(Death, OfASameHostProcessIsSeenByPidfd) {
  Plane parent(1, "job secret", [](Config& config) { config.self.host_id = hostIdentity(); });
  Child child(2, parent.record(), true);
  parent.plane->connect(PeerId{0}, child.record(), kPatience);
  ASSERT_TRUE(pump({&parent}, [&] { return parent.seen.ups.size() == 1; }));
  EXPECT_FALSE(parent.plane->endsUnheard());
  child.kill(SIGKILL);
  child.wait();
  EXPECT_TRUE(parent.plane->endsUnheard()) << "before it is said";
  ASSERT_TRUE(pump({&parent}, [&] { return !parent.seen.downs.empty(); }));
  EXPECT_FALSE(parent.plane->endsUnheard());
  EXPECT_EQ(parent.seen.downs[0].cause, DownCause::process_exit);
  EXPECT_EQ(parent.seen.downs[0].detail, "exit seen by pidfd");
}

TEST(Death, ElsewhereIsSeenByTheEndOfTheConnection) {
  Plane parent(1, "job secret", [](Config& config) { config.self.host_id = hostIdentity(); });
  Child child(2, parent.record(), false);
  parent.plane->connect(PeerId{0}, child.record(), kPatience);
  ASSERT_TRUE(pump({&parent}, [&] { return parent.seen.ups.size() == 1; }));
  child.kill(SIGKILL);
  ASSERT_TRUE(pump({&parent}, [&] { return !parent.seen.downs.empty(); }));
  EXPECT_TRUE(parent.seen.downs[0].cause == DownCause::connection_closed ||
              parent.seen.downs[0].cause == DownCause::connection_reset);
}

TEST(Death, AStoppedProcessIsNotDead) {
  Plane parent(3, "job secret", [](Config& config) { config.self.host_id = hostIdentity(); });
  Child child(2, parent.record(), true);
  parent.plane->connect(PeerId{0}, child.record(), kPatience);
  ASSERT_TRUE(pump({&parent}, [&] { return parent.seen.ups.size() == 1; }));
  child.kill(SIGSTOP);
  parent.plane->ping(PeerId{0});
  EXPECT_FALSE(pump({&parent}, [&] { return !parent.seen.downs.empty(); }, 300ms));
  EXPECT_TRUE(parent.seen.pongs.empty());
  child.kill(SIGCONT);
  EXPECT_TRUE(pump({&parent}, [&] { return parent.seen.pongs.size() == 1; }));
}

TEST(Death, AClosedConnectionOfALivingProcess) {
  Plane a(1);
  auto b = std::make_unique<Plane>(2);
  join(a, *b);
  b.reset();  // no goodbye
  ASSERT_TRUE(pump({&a}, [&] { return !a.seen.downs.empty(); }));
  EXPECT_EQ(a.seen.downs[0].cause, DownCause::connection_closed);
  EXPECT_EQ(a.seen.downs.size(), 1u);
  EXPECT_FALSE(a.send(0, "anybody there?"));
}

TEST(Unreachable, WithinTheLimitAndWithTheReason) {
  std::string gone;
  {
    Plane other(9);
    gone = other.record();
  }
  Plane dialer(1);
  Plane waiter(20);
  dialer.plane->connect(PeerId{0}, gone, 200ms);
  waiter.plane->connect(PeerId{0}, gone, 200ms);
  ASSERT_TRUE(pump({&dialer, &waiter},
                   [&] { return dialer.seen.downs.size() == 1 && waiter.seen.downs.size() == 1; }));
  EXPECT_EQ(dialer.seen.downs[0].cause, DownCause::unreachable);
  EXPECT_NE(dialer.seen.downs[0].detail.find("refused"), std::string::npos)
      << dialer.seen.downs[0].detail;
  EXPECT_NE(waiter.seen.downs[0].detail.find("no answer"), std::string::npos);
  EXPECT_THROW(dialer.plane->connect(PeerId{1}, "rubbish", 1s), std::invalid_argument);
}

// The address is taken by somebody else who knows the secret: not the process we asked for.
TEST(Unreachable, AnotherProcessAnswers) {
  Plane dialer(1), other(7);
  auto record = other.record();
  const auto host = record.rfind(' ');
  const auto process = record.rfind(' ', host - 1) + 1;
  record.replace(process, host - process, "00000000000000aa");
  dialer.plane->connect(PeerId{0}, record, 300ms);
  ASSERT_TRUE(pump({&dialer, &other}, [&] { return dialer.seen.downs.size() == 1; }));
  EXPECT_EQ(dialer.seen.downs[0].cause, DownCause::unreachable);
  EXPECT_NE(dialer.seen.downs[0].detail.find("another process"), std::string::npos)
      << dialer.seen.downs[0].detail;
}

TEST(Frozen, ItsQueueIsBoundedAndComesThroughWhenItWakes) {
  Plane a(1), frozen(2);
  join(a, frozen);
  const auto word = std::string(500, 'x');
  std::size_t accepted = 0;
  std::size_t refused = 0;
  for (int i = 0; i < 60'000; ++i) {  // 30 MB
    (a.send(0, word) ? accepted : refused) += 1;
    a.wait(0ms);
  }
  EXPECT_GT(refused, 1000u);
  EXPECT_LT(accepted * word.size(), 20u << 20);
  EXPECT_EQ(a.plane->counters().frames_dropped, refused);
  ASSERT_TRUE(pump({&a, &frozen}, [&] { return frozen.seen.frames.size() == accepted; }));
  EXPECT_TRUE(a.send(0, word)) << "usable again";
}

TEST(Frozen, ShutdownKeepsItsLimit) {
  Plane a(1), frozen(2);
  join(a, frozen);
  const auto word = std::string(500, 'x');
  while (a.send(0, word)) a.wait(0ms);
  const auto start = std::chrono::steady_clock::now();
  a.plane->shutdown(200);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 1500ms);
}

TEST(Leftovers, NoDescriptorAfterAnyOfIt) {
  const auto before = openDescriptors();
  for (int i = 0; i < 20; ++i) {
    Plane a(1), b(2), c(3);
    join(a, b);
    c.connect(5, a);       // parked at nobody's request
    a.connect(9, c, 10s);  // dials while everything ends
    Stranger stranger(a.port());
    if (i % 2 == 0) a.plane->shutdown(100);
    if (i % 3 == 0) b.plane->shutdown(0);
  }
  EXPECT_EQ(openDescriptors(), before);
}

TEST(Limits, TooFewDescriptorsIsAClearError) {
  rlimit old{};
  getrlimit(RLIMIT_NOFILE, &old);
  std::vector<int> taken;
  rlimit tight = old;
  tight.rlim_cur = openDescriptors() + 2;
  setrlimit(RLIMIT_NOFILE, &tight);
  for (int fd; (fd = dup(0)) >= 0;) taken.push_back(fd);
  std::string text;
  try {
    Plane plane(1);
  } catch (const std::runtime_error& error) {
    text = error.what();
  }
  for (const int fd : taken) close(fd);
  setrlimit(RLIMIT_NOFILE, &old);
  EXPECT_NE(text.find("ulimit -n"), std::string::npos) << text;
}

// Out of descriptors for a while: it neither spins nor forgets how to accept.
TEST(Limits, AcceptingGoesOnWhenDescriptorsComeBack) {
  Plane a(1), b(2);
  rlimit old{};
  getrlimit(RLIMIT_NOFILE, &old);
  rlimit tight = old;
  tight.rlim_cur = std::min<rlim_t>(old.rlim_cur, 256);
  setrlimit(RLIMIT_NOFILE, &tight);
  a.connect(0, b);
  b.connect(0, a);
  std::vector<int> taken;
  for (int fd; (fd = dup(0)) >= 0;) taken.push_back(fd);
  EXPECT_FALSE(pump({&a, &b}, [&] { return !b.seen.ups.empty(); }, 300ms));
  for (const int fd : taken) close(fd);
  EXPECT_TRUE(pump({&a, &b}, [&] { return !a.seen.ups.empty() && !b.seen.ups.empty(); }));
  setrlimit(RLIMIT_NOFILE, &old);
}

TEST(Limits, AnAddressThatIsNotOurs) {
  try {
    Plane plane(1, "job secret", [](Config& config) { config.listen_address = "203.0.113.9"; });
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("203.0.113.9"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("PAPILIO_INTERFACE"), std::string::npos);
  }
}

}  // namespace
}  // namespace papilio::control::testing
