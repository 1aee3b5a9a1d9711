#include "process_group/callback_threads.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <numeric>
#include <stdexcept>
#include <vector>

namespace papilio::pg {
namespace {

using std::chrono::seconds;
constexpr seconds kLimit{20};

bool comes(const std::future<void>& future) {
  return future.wait_for(kLimit) == std::future_status::ready;
}

TEST(CallbackThreads, JobsRunInOrderOneAtATime) {
  CallbackThreads callbacks;
  std::vector<int> order;  // no lock: a data race if two ran at once
  for (int k = 0; k < 10'000; ++k) {
    callbacks.post([&order, k] { order.push_back(k); });
  }
  ASSERT_TRUE(callbacks.stop());
  std::vector<int> expected(10'000);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(order, expected);
}

TEST(CallbackThreads, ABlockedJobDoesNotHoldUpWhatItWaitsFor) {
  CallbackThreads callbacks;
  std::promise<void> inner;
  std::promise<bool> outer;
  // Both are there before the first begins to wait, and nothing is posted after that.
  std::promise<void> both;
  callbacks.post([&] {
    both.get_future().wait();
    outer.set_value(comes(inner.get_future()));
  });
  callbacks.post([&] { inner.set_value(); });
  both.set_value();
  EXPECT_TRUE(outer.get_future().get());
}

TEST(CallbackThreads, BlockedJobsNest) {
  constexpr int kDepth = 20;
  CallbackThreads callbacks;
  std::vector<std::promise<void>> done(kDepth + 1);
  std::atomic<int> good{0};
  for (int k = 0; k < kDepth; ++k) {
    callbacks.post([&, k] {
      good += comes(done[k + 1].get_future());
      done[k].set_value();
    });
  }
  callbacks.post([&] { done[kDepth].set_value(); });
  EXPECT_TRUE(comes(done[0].get_future()));
  EXPECT_EQ(good, kDepth);
  EXPECT_EQ(callbacks.threads(), kDepth + 2u);
}

// With many spare threads left over, each new block still wakes one of them.
TEST(CallbackThreads, BlocksAreSeenAgainAndAgain) {
  CallbackThreads callbacks;
  for (int round = 0; round < 20; ++round) {
    constexpr int kDepth = 3;
    std::vector<std::promise<void>> done(kDepth + 1);
    std::vector<std::promise<void>> inside(kDepth);
    std::atomic<int> good{0};
    for (int k = 0; k < kDepth; ++k) {
      callbacks.post([&, k] {
        inside[k].set_value();
        good += comes(done[k + 1].get_future());
        done[k].set_value();
      });
      ASSERT_TRUE(comes(inside[k].get_future())) << "round " << round << " job " << k;
    }
    callbacks.post([&] { done[kDepth].set_value(); });
    ASSERT_TRUE(comes(done[0].get_future())) << "round " << round;
    ASSERT_EQ(good, kDepth);
  }
}

TEST(CallbackThreads, AJobThatSaysSoIsOvertakenAtOnce) {
  CallbackThreads callbacks;
  const auto start = std::chrono::steady_clock::now();
  constexpr int kTimes = 200;
  for (int k = 0; k < kTimes; ++k) {
    std::promise<void> inner;
    std::promise<bool> outer;
    callbacks.post([&] {
      CallbackThreads::mayBlock();
      callbacks.post([&] { inner.set_value(); });
      outer.set_value(comes(inner.get_future()));
    });
    ASSERT_TRUE(outer.get_future().get());
  }
  // Without the word, each of them would take kPatience at least.
  EXPECT_LT(std::chrono::steady_clock::now() - start, kTimes * CallbackThreads::kPatience);
  EXPECT_LE(callbacks.threads(), 10u);  // used again, not one more each time
}

TEST(CallbackThreads, OrderIsKeptByThoseThatFollowABlockedJob) {
  CallbackThreads callbacks;
  std::promise<void> inner;
  std::vector<int> order;
  callbacks.post([&] { EXPECT_TRUE(comes(inner.get_future())); });
  for (int k = 0; k < 1000; ++k) {
    callbacks.post([&order, k] { order.push_back(k); });
  }
  callbacks.post([&] { inner.set_value(); });
  ASSERT_TRUE(callbacks.stop());
  ASSERT_EQ(order.size(), 1000u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST(CallbackThreads, WhatAJobThrowsStopsNothing) {
  CallbackThreads callbacks;
  std::promise<void> after;
  callbacks.post([] { throw std::runtime_error("on purpose"); });
  callbacks.post([&] { after.set_value(); });
  EXPECT_TRUE(comes(after.get_future()));
}

TEST(CallbackThreads, StopRunsWhatIsQueuedBehindABlockedJob) {
  CallbackThreads callbacks;
  std::promise<void> inner;
  int ran = 0;
  callbacks.post([&] { ran += comes(inner.get_future()); });
  callbacks.post([&] { inner.set_value(); });
  EXPECT_TRUE(callbacks.stop());
  EXPECT_EQ(ran, 1);
  bool here = false;
  callbacks.post([&] { here = true; });
  EXPECT_TRUE(here);  // in the calling thread
}

TEST(CallbackThreads, StopLeavesBehindWhatNeverEnds) {
  std::promise<void> never;
  std::promise<void> gone;
  {
    CallbackThreads callbacks;
    std::promise<void> inside;
    callbacks.post([&] {
      inside.set_value();
      never.get_future().wait();
      gone.set_value();
    });
    ASSERT_TRUE(comes(inside.get_future()));
    EXPECT_FALSE(callbacks.stop(std::chrono::milliseconds(50)));
  }
  never.set_value();  // the thread still has what it needs
  EXPECT_TRUE(comes(gone.get_future()));
}

}  // namespace
}  // namespace papilio::pg
