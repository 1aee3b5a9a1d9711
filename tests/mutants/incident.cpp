#include "mutants/incident.hpp"

#include "sim/world.hpp"

namespace papilio::sim {

namespace {

constexpr std::uint64_t kRounds = 110;
constexpr std::uint64_t kCalm = 60;   // from here on everything is as before …
constexpr std::uint64_t kWhole = 95;  // … and from here on every report has to say so
constexpr Duration kQuiet = 20s;      // when the calm begins

RoundShape strict(Random& random) {
  RoundShape shape;
  shape.strict = true;
  shape.dtype = DType::int64;
  shape.numel = random.between(1, 200);
  shape.kind = random.chance(0.5) ? OpKind::allreduce : OpKind::allgather;
  return shape;
}

Workload work(Random& random, double strict_share) {
  Workload work;
  work.ranks.resize(random.between(3, 6));
  const Duration patience = random.chance(0.5) ? 1s : 2s;
  const bool large = random.chance(0.4);
  for (auto& rank : work.ranks) {
    rank.options.patience = patience;
    rank.options.weight = static_cast<float>(random.between(1, 3));
    rank.compute = random.upTo(8ms);
    rank.clock_rate = 0.95 + 0.1 * random.unit();
  }
  for (std::uint64_t seq = 1; seq <= kRounds; ++seq) {
    RoundShape shape;
    shape.numel = large ? 40'000 : random.between(1, 300);
    const bool hit = seq > 6 && seq < kCalm;
    work.ops.push_back(hit && random.chance(strict_share) ? strict(random) : shape);
    if (seq >= kCalm) work.not_before[Seq{seq}] = Instant{} + kQuiet + (seq - kCalm) * 20ms;
  }
  return work;
}

std::string at(const World::Return& done) {
  return "rank " + std::to_string(done.rank.value) + " seq " + std::to_string(done.round.seq.value);
}

// From kWhole on: all who are left are in it, and each reduces what is its own.
void checkWhole(const World& world, const ContributorSet& left, std::vector<std::string>& out) {
  const bool all = left == ContributorSet::firstN(world.work().size());
  for (const auto& done : world.returns()) {
    if (done.round.seq.value < kWhole || !left.contains(done.rank)) continue;
    for (const auto& chunk : done.round.report.chunks) {
      const bool own = !all || chunk.source == fault::Source::reduced;
      if (chunk.contributors != left || !own) out.push_back(at(done) + " is not whole again");
    }
  }
}

}  // namespace

std::vector<std::string> freezeJob(std::uint64_t seed) {
  Random random(seed);
  World world(work(random, 0), random.bits());
  const std::uint32_t n = world.work().size();
  const Duration patience = world.work().ranks[0].options.patience;
  const Rank victim{random.rank(n)};
  const Seq hit{random.between(25, 40)};
  Instant back{};
  world.onEnter(victim, hit, random.upTo(1ms), [&, length = 4s + random.upTo(4s)] {
    world.pause(victim, length);
    back = world.now() + length;
  });
  world.run();
  auto out = world.checker().violations();
  std::vector<Duration> waited(n);
  for (const auto& done : world.returns()) {
    const Duration took = done.round.active;
    if (done.rank == victim) {
      if (done.round.entered <= back) continue;
      for (const auto& chunk : done.round.report.chunks) {
        if (chunk.source == fault::Source::local) out.push_back(at(done) + ": its result was kept");
      }
      continue;
    }
    if (took > patience + 1s) out.push_back(at(done) + " took more than its patience");
    // What it can do nothing about: the others take their time to enter.
    if (took > 100ms) waited[done.rank.value] += took;
  }
  for (std::uint32_t r = 0; r < n; ++r) {
    // One deadline for the incident, one while the victim catches up.
    if (waited[r] <= 2 * patience + 1s) continue;
    out.push_back("rank " + std::to_string(r) + " waited for " +
                  std::to_string(toSeconds(waited[r])) + " s in all");
  }
  checkWhole(world, ContributorSet::firstN(n), out);
  return out;
}

std::vector<std::string> killJob(std::uint64_t seed) {
  Random random(seed);
  World world(work(random, 0.3), random.bits());
  const std::uint32_t n = world.work().size();
  const Rank victim{random.rank(n)};
  const Seq hit{random.between(8, 40)};
  world.onEnter(victim, hit, random.upTo(2ms), [&] { world.crash(victim, 20ms); });
  world.run();
  auto out = world.checker().violations();
  ContributorSet left = ContributorSet::firstN(n);
  left.erase(victim);
  for (const auto& done : world.returns()) {
    if (done.rank == victim || done.round.active <= 150ms) continue;
    out.push_back(at(done) + " took " + std::to_string(toSeconds(done.round.active)) + " s");
  }
  checkWhole(world, left, out);
  return out;
}

std::vector<std::string> cutOffJob(std::uint64_t seed) {
  Random random(seed);
  World world(work(random, 0), random.bits());
  const std::uint32_t n = world.work().size();
  const Rank victim{random.rank(n)};
  const Duration length = world.work().ranks[0].options.patience * 13 / 10 + random.upTo(1s);
  const bool slow = random.chance(0.5);
  const auto both = [&](auto hit) {
    for (std::uint32_t r = 0; r < n; ++r) {
      if (Rank{r} == victim) continue;
      hit(victim, Rank{r});
      hit(Rank{r}, victim);
    }
  };
  const auto lag = [&](Duration delay) {
    both([&](Rank from, Rank to) {
      world.network().link(from, to).latency = delay + 50us;
      world.network().link(from, to).control_delay = delay / 8;
    });
  };
  world.checker().mark(victim);
  world.onEnter(victim, Seq{random.between(25, 40)}, random.upTo(1ms), [&, slow, length] {
    world.noteFired();
    if (!slow) return both([&](Rank from, Rank to) { world.block(from, to, length); });
    lag(length);
    world.at(world.now().time_since_epoch() + length, [&] { lag(Duration{}); });
  });
  world.run();
  auto out = world.checker().violations();
  if (world.fired() == 0) out.push_back("nothing happened");
  checkWhole(world, ContributorSet::firstN(n), out);
  return out;
}

}  // namespace papilio::sim
