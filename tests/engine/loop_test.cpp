// The progress thread itself: start, wake-ups, failures, spinning lanes, end, fork.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "engine/cluster.hpp"

namespace papilio::engine::testing {
namespace {

TEST(Loop, ALaneThatDoesNotOpenIsAnErrorOfStart) {
  FakeNetwork network;
  network.failNextOpen("no network here");
  EngineConfig config;
  config.lanes = network.lanes();
  try {
    Engine::start(config);
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "no network here");
  }
  Engine::start(config)->shutdown();  // the next one works
}

// No wake-up may get lost between "nothing to do" and sleep: each question would take a second.
TEST(Loop, QuestionsFromManyThreadsAreAnsweredAtOnce) {
  Cluster cluster(1);
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  std::atomic<int> answered{0};
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) answered += cluster.engines[0]->stats().empty() ? 0 : 1;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(answered, 3000);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
}

TEST(Loop, ShutdownRacesWithEverything) {
  for (int i = 0; i < 30; ++i) {
    FakeNetwork network;
    EngineConfig config;
    config.lanes = network.lanes();
    auto engine = Engine::start(config);
    GroupConfig group;
    group.id = GroupId{1};
    group.records = {engine->localRecord()};
    auto handle = engine->createGroup(group);
    std::atomic<int> ended{0};
    std::vector<float> tensor(10, 1.0F);
    std::thread asks([&] {
      while (!engine->stats().empty()) {
      }
    });
    std::thread submits([&] {
      for (int k = 0; k < 200; ++k) {
        handle->submit(AllreduceRequest{tensor.data(), tolerant(10)}, std::nullopt,
                       [&](const Completion&) { ++ended; });
      }
    });
    std::thread second([&] { engine->shutdown(); });
    engine->shutdown();
    second.join();
    asks.join();
    submits.join();
    EXPECT_EQ(ended, 200) << "every submission ends exactly once";
  }
}

TEST(Loop, AFailureOfTheLaneEndsTheGroupsAndNotTheProcess) {
  Cluster cluster(2);
  std::vector<float> tensor(100'000, 1.0F);
  auto pending = allreduce(*cluster.groups[0], tensor, tolerant(100'000));
  cluster.network.throwInProgress(0);
  EXPECT_EQ(get(pending).error.kind, fault::ErrorKind::aborted);
  EXPECT_TRUE(eventually([&] { return cluster.groups[0]->aborted(); }));
  EXPECT_TRUE(cluster.engines[0]->stats().empty());
  bool told = false;
  for (const auto& line : cluster.log(0))
    told |= line.find("the lane blew up") != std::string::npos;
  EXPECT_TRUE(told);
  // The other one sees a goodbye and goes on.
  std::vector<float> theirs(100'000, 2.0F);
  auto alone = allreduce(*cluster.groups[1], theirs, tolerant(100'000));
  EXPECT_FALSE(get(alone).error);
}

TEST(Loop, ACallbackThatThrowsDoesNotEndTheProcess) {
  Cluster cluster(1);
  std::vector<float> tensor(10, 1.0F);
  cluster.groups[0]->submit(AllreduceRequest{tensor.data(), tolerant(10)}, std::nullopt,
                            [](const Completion&) { throw std::runtime_error("a bad callback"); });
  EXPECT_TRUE(eventually([&] { return cluster.groups[0]->aborted(); }));
  auto refused = allreduce(*cluster.groups[0], tensor, tolerant(10));
  EXPECT_EQ(get(refused).error.kind, fault::ErrorKind::aborted);
}

TEST(Loop, ACallbackMaySubmitAgainAlsoAfterTheEnd) {
  Cluster cluster(1);
  std::vector<float> tensor(10, 1.0F);
  std::promise<Completion> last;
  const AllreduceRequest request{tensor.data(), tolerant(10)};
  cluster.groups[0]->submit(request, std::nullopt, [&](const Completion&) {
    cluster.groups[0]->submit(request, std::nullopt,
                              [&](const Completion& done) { last.set_value(done); });
  });
  auto pending = last.get_future();
  EXPECT_FALSE(get(pending).error);
  cluster.groups[0]->abort("over");
  std::promise<Completion> refused;
  cluster.groups[0]->submit(request, std::nullopt, [&](const Completion&) {
    cluster.groups[0]->submit(request, std::nullopt,
                              [&](const Completion& done) { refused.set_value(done); });
  });
  auto ended = refused.get_future();
  EXPECT_EQ(get(ended).error.kind, fault::ErrorKind::aborted);
}

// CPU time of this process, to see whether somebody spins.
double cpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Seconds of CPU in half a second; a thread that spins takes all of it.
#if defined(__SANITIZE_THREAD__)
constexpr double kMuch = 0.45;  // each wake-up costs several times as much under TSan
#else
constexpr double kMuch = 0.3;
#endif

TEST(Loop, ADescriptorThatCriesWolfDoesNotCostACore) {
  Cluster cluster(1);
  cluster.network.cryWolf(0);
  ASSERT_TRUE(eventually([&] { return cluster.stat(0, "spins") >= 1; }));
  const double before = cpuSeconds();
  const double spins = cluster.stat(0, "spins");
  std::this_thread::sleep_for(500ms);  // the time over which the cost is measured
  EXPECT_GT(cluster.stat(0, "spins"), spins + 20);
  EXPECT_LT(cpuSeconds() - before, kMuch);
  cluster.network.cryWolf(0, false);
  std::vector<float> tensor(10, 1.0F);
  auto pending = allreduce(*cluster.groups[0], tensor, tolerant(10));
  EXPECT_FALSE(get(pending).error);
}

TEST(Loop, ALaneThatRefusesToArmDoesNotCostACore) {
  Cluster cluster(2);
  cluster.network.refuseArm(0);
  cluster.engines[0]->stats();
  const double before = cpuSeconds();
  std::this_thread::sleep_for(500ms);
  EXPECT_LT(cpuSeconds() - before, kMuch);
  std::vector<float> a(1000, 1.0F), b(1000, 3.0F);
  auto first = allreduce(*cluster.groups[0], a, tolerant(1000));
  auto second = allreduce(*cluster.groups[1], b, tolerant(1000));
  get(first);
  get(second);
  EXPECT_EQ(a, std::vector<float>(1000, 2.0F));
}

TEST(Loop, AnIdleEngineSleeps) {
  Cluster cluster(2);
  const auto before = cluster.network.waits(0);
  std::this_thread::sleep_for(500ms);
  EXPECT_LT(cluster.network.waits(0) - before, 50u);
}

// The child has the object but not the thread: every call returns, and so does the end.
TEST(Loop, AForkedChildIsNotCaught) {
#if defined(__SANITIZE_THREAD__)
  constexpr bool kForks = false;  // TSan does not support threads after a fork of many
#else
  constexpr bool kForks = true;
#endif
  if (!kForks) return;
  auto cluster = std::make_unique<Cluster>(2);
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    bool good = cluster->engines[0]->stats().empty();
    std::vector<float> tensor(10);
    auto pending = allreduce(*cluster->groups[0], tensor, tolerant(10));
    good = good && get(pending).error.kind == fault::ErrorKind::aborted;
    cluster->groups[0]->leave();
    cluster->groups.clear();
    for (auto& engine : cluster->engines) engine->shutdown();
    cluster->engines.clear();
    _exit(good ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  std::vector<std::vector<float>> tensors(2, std::vector<float>(1000, 1.0F));
  std::vector<Pending> pending;
  for (std::size_t r = 0; r < 2; ++r) {
    pending.push_back(allreduce(*cluster->groups[r], tensors[r], tolerant(1000)));
  }
  for (auto& each : pending) EXPECT_FALSE(get(each).error) << "the parent goes on";
}

}  // namespace
}  // namespace papilio::engine::testing
