#include "sim/host_rounds.hpp"

#include <algorithm>

namespace papilio::sim {

using fault::HostShare;
using fault::ReportChunk;
using fault::Source;

bool HostRounds::combines(Rank rank, const RoundShape& shape) const {
  if (work_.hosts.empty() || inPhases(shape)) return false;
  const auto host = work_.hosts[rank.value];
  return std::count(work_.hosts.begin(), work_.hosts.end(), host) > 1;
}

ContributorSet HostRounds::living(std::uint32_t host) const {
  ContributorSet out;
  for (std::uint32_t r = 0; r < work_.size(); ++r) {
    if (work_.hosts[r] == host && gone_.count(Rank{r}) == 0) out.insert(Rank{r});
  }
  return out;
}

void HostRounds::join(Rank rank, Seq seq, const RoundShape& shape, Done done) {
  const Key key{work_.hosts[rank.value], seq};
  Round& round = rounds_[key];
  if (round.waiting.empty() && !round.over) {
    round.shape = shape;
    // Whoever comes later than this is left out.
    queue_.after(work_.ranks[rank.value].options.patience / 2, [this, key] { finish(key); });
  }
  round.differs = round.differs || !(round.shape == shape);
  if (round.over) return hand(key, rank, done);
  round.waiting.emplace(rank, std::move(done));
  finishIfAll(key);
}

void HostRounds::gone(Rank rank) {
  gone_.insert(rank);
  std::vector<Key> open;
  for (const auto& [key, round] : rounds_) {
    if (!round.over) open.push_back(key);
  }
  for (const Key& key : open) finishIfAll(key);
}

void HostRounds::finishIfAll(const Key& key) {
  ContributorSet here;
  for (const auto& [rank, done] : rounds_.at(key).waiting) here.insert(rank);
  if ((living(key.first) - here).empty()) finish(key);
}

void HostRounds::finish(const Key& key) {
  Round& round = rounds_.at(key);
  if (round.over) return;
  round.over = true;
  ContributorSet finite;
  for (const auto& [rank, done] : round.waiting) {
    round.in.insert(rank);
    if (work_.ranks[rank.value].nan_at.count(key.second) == 0) finite.insert(rank);
  }
  if (!finite.empty()) round.in = finite;
  for (const auto& [rank, done] : round.waiting) hand(key, rank, done);
}

ReportChunk HostRounds::range(std::uint64_t start, std::uint64_t stop,
                              const ContributorSet& who) const {
  ReportChunk out{start, stop, Source::reduced, who, 0};
  who.forEach([&](Rank rank) {
    out.weight += static_cast<double>(work_.ranks[rank.value].options.weight);
  });
  return out;
}

HostShare HostRounds::shareFor(const Key& key, Rank to) {
  const Round& round = rounds_.at(key);
  HostShare out;
  if (round.differs) return out;
  const std::uint64_t numel = round.shape.numel;
  ContributorSet self;
  self.insert(to);
  const bool late = round.waiting.count(to) == 0;
  const bool alone = late && random_.chance(0.5);  // nobody had a result for it any more
  const auto most = alone ? self : round.in;
  const bool apart = disturbed_ && random_.chance(0.1);
  if (apart && numel > 1 && random_.chance(0.7)) {
    const auto cut = random_.between(1, numel - 1);
    out.ranges = {range(0, cut, most), range(cut, numel, self)};
  } else {
    out.ranges = {range(0, numel, apart ? self : most)};
  }
  for (auto& one : out.ranges) {
    if (one.contributors == self) one.source = Source::local;
  }
  for (std::uint32_t r = 0; r < work_.size(); ++r) {
    if (work_.hosts[r] != key.first || round.in.contains(Rank{r})) continue;
    if (work_.ranks[r].nan_at.count(key.second) != 0) out.nonfinite.insert(Rank{r});
  }
  return out;
}

Bytes HostRounds::made(const RoundShape& shape, Seq seq, const HostShare& share) const {
  Bytes out(shape.numel * elementSize(shape.dtype));
  for (const ReportChunk& one : share.ranges) {
    std::vector<double> sum(one.stop - one.start, 0.0);
    one.contributors.forEach([&](Rank rank) {
      const Input input(work_, rank, seq);
      const auto weight = static_cast<double>(work_.ranks[rank.value].options.weight);
      for (std::uint64_t i = one.start; i < one.stop; ++i) {
        sum[i - one.start] += weight * input.at(i);
      }
    });
    withType(shape.dtype, [&](auto type) {
      using T = decltype(type);
      for (std::uint64_t i = one.start; i < one.stop; ++i) {
        const T value = static_cast<T>(sum[i - one.start]);
        std::memcpy(out.data() + i * sizeof(T), &value, sizeof(T));
      }
    });
  }
  return out;
}

void HostRounds::hand(const Key& key, Rank to, const Done& done) {
  auto share = shareFor(key, to);
  auto data = share.combined() ? made(rounds_.at(key).shape, key.second, share) : Bytes{};
  queue_.after(random_.upTo(200us),
               [done, share = std::move(share), data = std::move(data)] { done(share, data); });
}

}  // namespace papilio::sim
