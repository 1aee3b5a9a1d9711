// Rounds by reference among lanes of one process; the test is the engine that joins their tables.
#include "device_lane/round.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <thread>

#include "device_lane/host_memory.hpp"

namespace papilio::device {
namespace {

using testing::HostMemory;
using State = Round::State;
constexpr std::uint64_t kLarge = 100'003;  // elements of float32: in parts

std::byte* bytesOf(std::vector<float>& values) {
  return reinterpret_cast<std::byte*>(values.data());
}

// Small integers, so that every sum is exact; other ones for every rank, round and place.
std::vector<float> inputOf(std::uint32_t rank, std::uint64_t salt, std::uint64_t numel) {
  std::vector<float> out(numel);
  for (std::uint64_t i = 0; i < numel; ++i) {
    out[i] = static_cast<float>((i * 7 + rank * 13 + salt * 31 + i / 1000) % 64 + 1);
  }
  return out;
}

struct Host {
  explicit Host(std::uint32_t n, std::chrono::milliseconds patience = std::chrono::seconds(5)) {
    for (std::uint32_t r = 0; r < n; ++r) {
      lanes.push_back(std::make_shared<Lane>(
          memory, Lane::Config{Rank{r}, 0, static_cast<float>(r + 1), patience}));
    }
  }

  // What the engine makes of the tables of `members`.
  static Round::Decision decide(std::vector<std::unique_ptr<Round>>& rounds, std::uint64_t seq,
                                const ContributorSet& members) {
    Round::Decision out;
    out.seq = Seq{seq};
    out.contributors = members;
    out.factor.over = 0;
    members.forEach([&](Rank r) {
      out.rows[r.value] = rounds[r.value]->table()[r.value];
      out.factor.over += static_cast<double>(out.rows[r.value].weight);
    });
    return out;
  }

  HostMemory& memory = testing::newMemory();
  std::vector<std::shared_ptr<Lane>> lanes;
};

struct Job {
  // `count`: ranks that come to it, from 0 on; all of them if there are fewer.
  Job(Host& host, std::uint64_t salt_, std::uint64_t numel_, std::size_t count = 99)
      : salt(salt_), numel(numel_) {
    for (std::uint32_t r = 0; r < std::min(count, host.lanes.size()); ++r) {
      tensors.push_back(inputOf(r, salt, numel));
      rounds.push_back(std::make_unique<Round>(host.lanes[r], Round::Shape{DType::float32, numel},
                                               bytesOf(tensors.back()), nullptr));
    }
  }
  void begin(std::uint32_t rank, const Round::Decision& decision, Round::Factor own = {}) {
    std::fill(tensors[rank].begin(), tensors[rank].end(), -1.0F);  // what is not written shows
    rounds[rank]->begin(decision, own, bytesOf(tensors[rank]), nullptr);
  }
  // All of these until they are through.
  std::vector<State> run(std::vector<std::uint32_t> ranks) {
    std::vector<State> out(rounds.size(), State::running);
    while (!ranks.empty()) {
      std::erase_if(ranks, [&](auto r) {
        out[r] = rounds[r]->poll();
        return out[r] != State::running;
      });
    }
    return out;
  }
  void expectAverage(std::uint32_t rank, const ContributorSet& members) const {
    double weight = 0;
    std::vector<double> sum(numel);
    members.forEach([&](Rank r) {
      const double w = r.value + 1;
      weight += w;
      const auto input = inputOf(r.value, salt, numel);
      for (std::uint64_t i = 0; i < numel; ++i) sum[i] += w * static_cast<double>(input[i]);
    });
    for (std::uint64_t i = 0; i < numel; ++i) {
      ASSERT_EQ(tensors[rank][i], static_cast<float>(sum[i] / weight)) << rank << " at " << i;
    }
  }

  std::uint64_t salt;
  std::uint64_t numel;
  std::vector<std::vector<float>> tensors;
  std::vector<std::unique_ptr<Round>> rounds;
};

std::vector<std::uint32_t> all(std::uint32_t n) {
  std::vector<std::uint32_t> out(n);
  std::iota(out.begin(), out.end(), 0);
  return out;
}

TEST(DeviceRound, EverybodyHasTheAverageOfTheContributors) {
  for (const std::uint32_t n : {1u, 2u, 3u, 5u, 16u}) {
    Host host(n);
    std::uint64_t seq = 0;
    for (const std::uint64_t numel : {1ul, 1000ul, kLarge, 70'000ul}) {
      Job job(host, ++seq, numel);
      const auto members = ContributorSet::firstN(n);
      const auto decision = Host::decide(job.rounds, seq, members);
      for (std::uint32_t r = 0; r < n; ++r) job.begin(r, decision);
      const auto states = job.run(all(n));
      for (std::uint32_t r = 0; r < n; ++r) {
        EXPECT_EQ(states[r], State::average);
        job.expectAverage(r, members);
      }
    }
  }
}

TEST(DeviceRound, WhoIsLeftOutHasTheAverageOfTheOthers) {
  Host host(4);
  Job job(host, 1, kLarge);
  ContributorSet members;
  for (const std::uint32_t r : {0u, 3u}) members.insert(Rank{r});
  const auto decision = Host::decide(job.rounds, 1, members);
  for (std::uint32_t r = 0; r < 4; ++r) job.begin(r, decision);
  job.run(all(4));
  for (std::uint32_t r = 0; r < 4; ++r) job.expectAverage(r, members);
}

// Rank 1 counts, and then does nothing: the others make its part, with the same bits.
TEST(DeviceRound, APartThatNobodyMakesIsMadeByWhoNeedsIt) {
  Host host(4);
  Job job(host, 1, kLarge);
  const auto members = ContributorSet::firstN(4);
  const auto decision = Host::decide(job.rounds, 1, members);
  for (const std::uint32_t r : {0u, 2u, 3u}) job.begin(r, decision);
  const auto begin = std::chrono::steady_clock::now();
  job.run({0, 2, 3});
  EXPECT_GE(std::chrono::steady_clock::now() - begin, Round::kPartPatience);
  for (const std::uint32_t r : {0u, 2u, 3u}) job.expectAverage(r, members);
}

// Nobody takes a part that was made of other contributors.
TEST(DeviceRound, APartOfOtherContributorsIsNotTaken) {
  Host host(3);
  Job job(host, 1, kLarge);
  ContributorSet two;
  two.insert(Rank{0});
  two.insert(Rank{1});
  const auto three = ContributorSet::firstN(3);
  job.begin(0, Host::decide(job.rounds, 1, two));
  job.begin(1, Host::decide(job.rounds, 1, two));
  job.begin(2, Host::decide(job.rounds, 1, three));
  job.run(all(3));
  job.expectAverage(0, two);
  job.expectAverage(1, two);
  job.expectAverage(2, three);
}

TEST(DeviceRound, WithoutContributorsTheOwnElementsStand) {
  Host host(2);
  for (const double times : {1.0, 4.0, 0.0}) {
    Job job(host, 1, kLarge);
    job.begin(0, {Seq{1}, {}, {}, {}}, {times, 1.0});
    EXPECT_EQ(job.run({0})[0], State::own);
    const auto input = inputOf(0, 1, kLarge);
    for (std::uint64_t i = 0; i < kLarge; ++i) {
      ASSERT_EQ(job.tensors[0][i], static_cast<float>(times) * input[i]);
    }
  }
}

TEST(DeviceRound, SaysThatAnElementIsNotFinite) {
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity(), 1.0F}) {
    Host host(1);
    auto values = inputOf(0, 1, kLarge);
    values[kLarge - 1] = bad;
    const Round round(host.lanes[0], {DType::float32, kLarge}, bytesOf(values), nullptr);
    EXPECT_EQ((round.table()[0].flags & Reference::nonfinite) != 0, !std::isfinite(bad));
  }
}

// Rank 2 sleeps in the middle of round 1. The others go on, past the end of their memory.
TEST(DeviceRound, WhoSleepsTooLongNoticesAndKeepsItsOwn) {
  Host host(3, std::chrono::milliseconds(0));
  Job first(host, 1, kLarge);
  const auto members = ContributorSet::firstN(3);
  const auto decision = Host::decide(first.rounds, 1, members);
  for (std::uint32_t r = 0; r < 3; ++r) first.begin(r, decision);
  first.run({0, 1});
  ContributorSet two = members;
  two.erase(Rank{2});
  const auto turns = 3 * Slab::kLeast / (kLarge * sizeof(float));
  for (std::uint64_t seq = 2; seq < 2 + turns; ++seq) {
    Job job(host, seq, kLarge, 2);
    const auto next = Host::decide(job.rounds, seq, two);
    job.begin(0, next);
    job.begin(1, next);
    job.run({0, 1});
    job.expectAverage(0, two);
  }
  EXPECT_EQ(first.run({2})[2], State::own);
  EXPECT_EQ(first.tensors[2], inputOf(2, 1, kLarge));
  EXPECT_NE(first.rounds[2]->why().find("stopped for so long"), std::string::npos);
}

// It has entered every later round, so it is waited for.
TEST(DeviceRound, MemoryIsNotUsedAgainWhileOneWhoTakesPartMayReadIt) {
  Host host(2);
  std::vector<std::unique_ptr<Job>> jobs;
  const auto members = ContributorSet::firstN(2);
  const auto decisionOf = [&](std::uint64_t seq) {
    jobs.push_back(std::make_unique<Job>(host, seq, kLarge));
    return Host::decide(jobs.back()->rounds, seq, members);
  };
  const auto one = decisionOf(1);
  jobs[0]->begin(0, one);
  jobs[0]->begin(1, one);
  jobs[0]->run({0, 1});
  host.memory.later = true;  // what rank 1 reads in round 2 stays under way
  const auto two = decisionOf(2);
  host.memory.run();
  jobs[1]->begin(0, two);
  jobs[1]->begin(1, two);
  host.memory.run();
  while (jobs[1]->rounds[0]->poll() == State::running) host.memory.run();
  EXPECT_EQ(jobs[1]->rounds[1]->poll(), State::running);
  std::atomic<bool> read{false};
  std::thread rank0([&] {
    // More than there is: the memory of round 1 is free, then that of round 2 has to be waited for.
    for (std::uint64_t taken = 0; taken < Slab::kLeast; taken += kLarge * sizeof(float)) {
      host.lanes[0]->release(host.lanes[0]->reserve(kLarge * sizeof(float), 0), std::nullopt, {});
    }
    EXPECT_TRUE(read);
  });
  host.memory.run();
  read = true;
  while (jobs[1]->rounds[1]->poll() == State::running) host.memory.run();
  rank0.join();
  jobs[1]->expectAverage(1, members);
}

TEST(DeviceRound, RefusesReferencesOutsideOfTheMemory) {
  Host host(2);
  using Damage = void (*)(Reference&);
  const Damage damages[] = {
      [](Reference& row) { row.flags = 0; },
      [](Reference& row) { row.input = row.size - 4; },
      [](Reference& row) { row.input = std::numeric_limits<std::uint64_t>::max() - 255; },
      [](Reference& row) { row.input += 4; },
      [](Reference& row) { row.part = row.size + 256; },
      [](Reference& row) { row.size = 16; },
      [](Reference& row) { row.handle = {}; },
      [](Reference& row) { row.nonce[0] += 1; },
  };
  std::uint64_t seq = 0;
  for (const auto damage : damages) {
    Job job(host, ++seq, kLarge);
    auto decision = Host::decide(job.rounds, seq, ContributorSet::firstN(2));
    damage(decision.rows[1]);
    EXPECT_THROW(job.begin(0, decision), std::runtime_error) << seq;
  }
}

TEST(DeviceRound, AnOwnerThatEndedBeforeItWasFoundCostsTheRoundOnly) {
  Host host(2);
  Job job(host, 1, kLarge);
  auto decision = Host::decide(job.rounds, 1, ContributorSet::firstN(2));
  const pid_t child = fork();
  if (child == 0) _exit(0);
  waitpid(child, nullptr, 0);
  decision.rows[1].pid = static_cast<std::uint32_t>(child);
  job.begin(0, decision);
  EXPECT_EQ(job.run({0})[0], State::own);
  EXPECT_EQ(job.tensors[0], inputOf(0, 1, kLarge));
  EXPECT_NE(job.rounds[0]->why().find("rank 1"), std::string::npos);
}

TEST(DeviceLane, ClosesWhatItOpenedAndEndsWaiting) {
  HostMemory* memory = nullptr;
  {
    Host host(3);
    memory = &host.memory;
    Job job(host, 1, kLarge);
    const auto decision = Host::decide(job.rounds, 1, ContributorSet::firstN(3));
    for (std::uint32_t r = 0; r < 3; ++r) job.begin(r, decision);
    job.run(all(3));
    EXPECT_EQ(memory->opened, 6);
    job.rounds.clear();
    host.lanes[0]->leave();
    EXPECT_THROW(host.lanes[0]->reserve(1, 1), std::runtime_error);
    host.lanes.clear();
    while (memory->opened != 0) std::this_thread::yield();
  }
}

}  // namespace
}  // namespace papilio::device
