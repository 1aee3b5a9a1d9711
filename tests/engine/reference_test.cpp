// Rounds whose data is a table of references: who contributes has its own row in the result, and
// nobody's tensor is touched, however large it is said to be.
#include "core/reference.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "engine/cluster.hpp"

namespace papilio::engine::testing {
namespace {

constexpr std::uint64_t kNumel = 100'000'000;  // of a tensor that is not there

struct Guarded {  // what is written behind the table shows
  ReferenceTable table{};
  std::array<std::uint64_t, 64> after;
  Guarded() { after.fill(0xeeeeeeeeeeeeeeee); }
  bool intact() const {
    return std::all_of(after.begin(), after.end(),
                       [](auto word) { return word == 0xeeeeeeeeeeeeeeee; });
  }
};

// Rank r's row has serial 100 + r; it also writes rows for the others, which must not count.
Guarded tableOf(std::uint32_t rank, std::uint32_t flags = Reference::present) {
  Guarded out;
  for (auto& row : out.table) row.serial = 666;
  out.table[rank].flags = flags;
  out.table[rank].serial = 100 + rank;
  return out;
}

Pending submit(Group& group, Guarded& data, bool by_reference = true) {
  auto promise = std::make_shared<std::promise<Completion>>();
  AllreduceRequest request{data.table.data(), tolerant(kNumel)};
  request.by_reference = by_reference;
  auto out = promise->get_future();
  group.submit(request, std::nullopt,
               [promise](const Completion& done) { promise->set_value(done); });
  return out;
}

void expectRows(const Guarded& data, const ContributorSet& members) {
  for (std::uint32_t r = 0; r < kMaxReferences; ++r) {
    const auto wanted = members.contains(Rank{r}) ? 100 + r : 0;
    EXPECT_EQ(data.table[r].serial, wanted) << "row " << r;
  }
  EXPECT_TRUE(data.intact());
}

std::vector<Completion> run(Cluster& cluster, std::vector<Guarded>& data) {
  std::vector<Pending> pending;
  for (std::uint32_t r = 0; r < data.size(); ++r) {
    pending.push_back(submit(*cluster.groups[r], data[r]));
  }
  std::vector<Completion> out;
  for (auto& one : pending) out.push_back(get(one));
  return out;
}

TEST(Reference, EveryContributorSpeaksForItself) {
  for (const std::uint32_t n : {1u, 2u, 3u, 5u}) {
    Cluster cluster(n);
    for (int round = 0; round < 6; ++round) {  // another reducer each time
      std::vector<Guarded> data;
      for (std::uint32_t r = 0; r < n; ++r) data.push_back(tableOf(r));
      const auto done = run(cluster, data);
      for (std::uint32_t r = 0; r < n; ++r) {
        ASSERT_EQ(done[r].report.chunks.size(), 1u);
        EXPECT_EQ(done[r].report.chunks[0].contributors, ContributorSet::firstN(n));
        EXPECT_EQ(done[r].report.chunks[0].stop, kNumel);
        EXPECT_EQ(done[r].report.shape.numel, kNumel);
        if (n > 1) expectRows(data[r], ContributorSet::firstN(n));
      }
    }
  }
}

TEST(Reference, AMinorityThatIsNotFiniteIsLeftOut) {
  constexpr auto kBad = Reference::present | Reference::nonfinite;
  for (const std::uint32_t bad : {1u, 3u}) {
    Cluster cluster(4);
    std::vector<Guarded> data;
    for (std::uint32_t r = 0; r < 4; ++r) {
      data.push_back(tableOf(r, r < bad ? kBad : std::uint32_t{Reference::present}));
    }
    const auto done = run(cluster, data);
    auto members = ContributorSet::firstN(4);
    if (bad == 1) members.erase(Rank{0});
    for (std::uint32_t r = 0; r < 4; ++r) {
      EXPECT_EQ(done[r].report.chunks[0].contributors, members);
      expectRows(data[r], members);
    }
  }
}

TEST(Reference, WithoutAnybodyTheOwnRowIsLeft) {
  for (const auto fallback : {fault::Fallback::local, fault::Fallback::zero}) {
    auto options = patient();
    options.fallback = fallback;
    Cluster cluster(3, options);
    auto data = tableOf(0);
    auto pending = submit(*cluster.groups[0], data);
    cluster.network.kill(1);
    cluster.network.kill(2);
    const auto done = get(pending);
    EXPECT_FALSE(done.error);
    EXPECT_EQ(done.report.outcome, fault::Outcome::local);
    EXPECT_EQ(data.table[0].serial, 100u);
    EXPECT_TRUE(data.intact());
  }
}

// The others have elements, this one a reference to some: they are different collectives.
TEST(Reference, IsNotAddedToElements) {
  Cluster cluster(3, hasty());
  std::vector<std::vector<float>> tensors(3, std::vector<float>(1000, 1.0F));
  auto data = tableOf(2);
  std::vector<Pending> pending;
  for (std::uint32_t r = 0; r < 2; ++r) {
    pending.push_back(allreduce(*cluster.groups[r], tensors[r].data(), tolerant(1000)));
  }
  auto promise = std::make_shared<std::promise<Completion>>();
  AllreduceRequest request{data.table.data(), tolerant(1000)};
  request.by_reference = true;
  cluster.groups[2]->submit(request, std::nullopt,
                            [promise](const Completion& done) { promise->set_value(done); });
  for (std::uint32_t r = 0; r < 2; ++r) {
    const auto done = get(pending[r]);
    EXPECT_EQ(done.report.chunks[0].contributors, ContributorSet::firstN(2));
    EXPECT_EQ(tensors[r], std::vector<float>(1000, 1.0F));
  }
  auto refused = promise->get_future();
  EXPECT_EQ(get(refused).error.kind, fault::ErrorKind::schema_mismatch);
  EXPECT_TRUE(data.intact());
}

}  // namespace
}  // namespace papilio::engine::testing
