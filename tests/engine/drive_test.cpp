// Threads that wait for a collective and drive the engine meanwhile. A wake-up that gets lost shows
// as a second (the progress thread's longest sleep) per round.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <optional>
#include <thread>

#include "engine/cluster.hpp"

namespace papilio::engine::testing {
namespace {

constexpr std::chrono::seconds kNoneLost{20};  // for more than 20 rounds

AllreduceRequest requestFor(std::vector<float>& data) {
  return {.data = data.data(), .shape = tolerant(data.size()), .awaited = true};
}

struct Awaited {
  std::atomic<bool> ended{false};
  std::thread::id completed_by;
  Completion completion;

  void submit(Group& group, std::vector<float>& data) {
    group.submit(requestFor(data), std::nullopt, [this](const Completion& done) {
      completed_by = std::this_thread::get_id();
      completion = done;
      ended = true;
    });
  }
  // Until it has ended; another thread may be driving.
  void wait(Group& group) {
    group.drive([this] { return ended.load(); }, kPatience);
    EXPECT_TRUE(eventually([this] { return ended.load(); }));
  }
};

// One round over nodes 0 and 1, each driven by a thread of its own; how many of the two completions
// ran on the thread that waited.
int roundOfTwo(Cluster& cluster, std::size_t numel) {
  std::array<std::vector<float>, 2> data{std::vector<float>(numel, 2.0F),
                                         std::vector<float>(numel, 4.0F)};
  std::atomic<int> own{0};
  const auto run = [&](std::size_t node) {
    Awaited call;
    call.submit(*cluster.groups[node], data[node]);
    call.wait(*cluster.groups[node]);
    EXPECT_FALSE(call.completion.error);
    if (call.completed_by == std::this_thread::get_id()) ++own;
  };
  std::thread other([&] { run(1); });
  run(0);
  other.join();
  EXPECT_EQ(data[0], std::vector<float>(numel, 3.0F));
  EXPECT_EQ(data[0], data[1]);
  return own;
}

TEST(Drive, WhoWaitsCompletesItsOwnCollective) {
  Cluster cluster(2);
  int own = 0;
  for (int i = 0; i < 50; ++i) own += roundOfTwo(cluster, i % 10 == 0 ? 300'000 : 100);
  EXPECT_GT(own, 0);  // the rest: the progress thread was quicker
}

TEST(Drive, TurnsWithTheProgressThread) {
  Cluster cluster(2);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 60; ++i) {
    roundOfTwo(cluster, 100);
    std::vector<float> a(100, 2.0F);
    std::vector<float> b(100, 4.0F);
    auto first = allreduce(*cluster.groups[0], a, tolerant(100));
    auto second = allreduce(*cluster.groups[1], b, tolerant(100));
    EXPECT_FALSE(get(first).error);
    EXPECT_FALSE(get(second).error);
    EXPECT_EQ(a, std::vector<float>(100, 3.0F));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, kNoneLost);
}

// What ends the collective comes over the control connection, to the progress thread.
TEST(Drive, ADeathWakesTheSleepingDriver) {
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 25; ++i) {
    Cluster cluster(2);
    std::vector<float> data(1000, 2.0F);
    Awaited call;
    std::thread killer([&] {
      // It sleeps before long: the other one takes no part.
      const auto end = std::chrono::steady_clock::now() + 5ms;
      EXPECT_TRUE(eventually([&] { return std::chrono::steady_clock::now() > end; }));
      cluster.network.kill(1);
    });
    call.submit(*cluster.groups[0], data);
    call.wait(*cluster.groups[0]);
    killer.join();
    EXPECT_FALSE(call.completion.error);
    EXPECT_NE(call.completion.report.outcome, fault::Outcome::complete);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, kNoneLost);
}

TEST(Drive, OthersAreServedMeanwhile) {
  Cluster cluster(2);
  auto alone = cluster.addGroup(2, {0});
  std::vector<float> stuck(1000, 2.0F);
  Awaited first;
  first.submit(*cluster.groups[0], stuck);
  std::thread driver([&] { first.wait(*cluster.groups[0]); });
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 50; ++i) {
    EXPECT_FALSE(cluster.engines[0]->stats().empty());
    std::vector<float> data(10, 1.0F);
    Awaited call;  // its thread asks to drive, and is told that another one does
    call.submit(*alone[0], data);
    call.wait(*alone[0]);
    EXPECT_FALSE(call.completion.error);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, kNoneLost);
  EXPECT_FALSE(first.ended);
  std::vector<float> theirs(1000, 4.0F);
  auto second = allreduce(*cluster.groups[1], theirs, tolerant(1000));
  EXPECT_FALSE(get(second).error);
  driver.join();
  EXPECT_EQ(stuck, std::vector<float>(1000, 3.0F));
}

TEST(Drive, ComesBackAfterItsLimit) {
  Cluster cluster(2);
  const auto begin = std::chrono::steady_clock::now();
  cluster.groups[0]->drive([] { return false; }, 30ms);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 30ms);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, kNoneLost);
  roundOfTwo(cluster, 100);
}

TEST(Drive, DoesNotWaitForAProgressThreadThatHangs) {
  Cluster cluster(1);
  std::vector<float> data(10, 1.0F);
  std::promise<void> hangs;
  std::promise<void> go;
  cluster.groups[0]->submit(AllreduceRequest{data.data(), tolerant(10)}, std::nullopt,
                            [&](const Completion&) {
                              hangs.set_value();
                              go.get_future().wait();
                            });
  hangs.get_future().wait();
  Awaited call;
  std::vector<float> other(10, 1.0F);
  call.submit(*cluster.groups[0], other);
  cluster.groups[0]->drive([&] { return call.ended.load(); }, 50ms);
  EXPECT_FALSE(call.ended);
  go.set_value();
  EXPECT_TRUE(eventually([&] { return call.ended.load(); }));
}

TEST(Drive, ShutdownEndsIt) {
  for (int i = 0; i < 10; ++i) {
    Cluster cluster(2);
    std::vector<float> data(1000, 2.0F);
    Awaited call;
    call.submit(*cluster.groups[0], data);
    std::thread driver([&] { call.wait(*cluster.groups[0]); });
    cluster.engines[0]->shutdown();
    driver.join();
    EXPECT_EQ(call.completion.error.kind, fault::ErrorKind::aborted);
    cluster.groups[0]->drive([] { return false; }, kPatience);  // there is nothing to drive
  }
}

TEST(Drive, AFailureOfTheLaneEndsTheGroupsAndNotTheDriver) {
  Cluster cluster(2);
  std::vector<float> data(1000, 2.0F);
  Awaited call;
  call.submit(*cluster.groups[0], data);
  cluster.network.throwInProgress(0);
  call.wait(*cluster.groups[0]);
  EXPECT_EQ(call.completion.error.kind, fault::ErrorKind::aborted);
  EXPECT_TRUE(cluster.engines[0]->stats().empty());
}

TEST(Drive, ACallbackMayAskAndCanNotDrive) {
  Cluster cluster(1);
  std::vector<float> data(10, 1.0F);
  std::optional<bool> asked;
  std::atomic<bool> ended{false};
  cluster.groups[0]->submit(requestFor(data), std::nullopt, [&](const Completion&) {
    asked = !cluster.engines[0]->stats().empty();
    cluster.groups[0]->drive([] { return false; }, kPatience);
    ended = true;
  });
  cluster.groups[0]->drive([&] { return ended.load(); }, kPatience);
  EXPECT_TRUE(ended);
  EXPECT_TRUE(asked.value_or(false));
}

}  // namespace
}  // namespace papilio::engine::testing
