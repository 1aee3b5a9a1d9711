#include "sim/random_job.hpp"

#include <algorithm>

namespace papilio::sim {

namespace {

RoundShape tolerant(Random& random) {
  RoundShape shape;
  const auto op = random.between(0, 3);
  shape.op = op == 0 ? ReduceOp::avg : op == 1 ? ReduceOp::premul_sum : ReduceOp::sum;
  if (shape.op == ReduceOp::premul_sum) shape.premul = 0.5;
  shape.dtype = random.chance(0.2) ? DType::float64 : DType::float32;
  const bool large = random.chance(0.12);
  shape.numel = large ? random.between(17'000, 120'000) : random.between(1, 300);
  return shape;
}

RoundShape strict(Random& random, std::uint32_t n) {
  RoundShape shape;
  shape.strict = true;
  shape.dtype = DType::int64;
  shape.numel = random.chance(0.1) ? random.between(30'000, 50'000) : random.between(1, 200);
  switch (random.between(0, 3)) {
    case 0:
      shape.kind = OpKind::broadcast;
      shape.strict = random.chance(0.3);
      break;
    case 1: shape.kind = OpKind::allgather; break;
    case 2:
      shape.kind = OpKind::barrier;
      shape.numel = 0;
      break;
    default: shape.kind = OpKind::allreduce;
  }
  if (shape.kind == OpKind::broadcast) shape.root = random.rank(n);
  return shape;
}

Workload randomWork(Random& random) {
  Workload work;
  const auto n = static_cast<std::uint32_t>(random.between(2, 6));
  work.ranks.resize(n);
  work.depth = static_cast<std::uint32_t>(random.between(1, 4));
  const auto ops = random.between(15, 45);
  const double strict_share = random.chance(0.5) ? 0.15 : 0;
  for (std::uint64_t i = 0; i < ops; ++i) {
    work.ops.push_back(random.chance(strict_share) ? strict(random, n) : tolerant(random));
  }
  fault::GroupOptions options;
  options.patience = random.chance(0.5) ? 5s : random.chance(0.5) ? 1s : 500ms;
  options.slow_strikes = random.chance(0.3) ? 1 : 3;
  options.blacklist_base = random.chance(0.5) ? 30s : 2s;
  if (random.chance(0.2)) options.retention_bytes = 256 << 10;
  if (random.chance(0.2)) options.fallback = fault::Fallback::zero;
  const bool weighted = random.chance(0.3);
  for (auto& rank : work.ranks) {
    rank.options = options;
    if (weighted) rank.options.weight = static_cast<float>(random.between(1, 3));
    rank.compute = random.upTo(5ms);
  }
  return work;
}

// One fault with its victim and moment.
class Faults {
 public:
  Faults(Random& random, Workload& work) : random_(random), work_(work) {
    const auto count = random.between(1, 3);
    for (std::uint64_t i = 0; i < count; ++i) choose();
  }
  void install(World& world, RandomJob& job) {
    for (auto& one : armed_) one(world);
    for (const Rank rank : guilty_) world.checker().mark(rank);
    job.faults += text_;
    job.planned = planned_;
    if (!splits_) world.checker().expectAgreement();
  }

 private:
  using Action = std::function<void(World&)>;

  void say(const std::string& what) { text_ += (text_.empty() ? "" : "; ") + what; }
  std::string moment(Rank rank, Seq seq) {
    return "rank " + std::to_string(rank.value) + " at seq " + std::to_string(seq.value);
  }
  void trigger(Rank rank, Seq seq, Action action) {
    const Duration delay = random_.upTo(random_.chance(0.5) ? 500us : 20ms);
    armed_.push_back([=](World& world) {
      world.onEnter(rank, seq, delay, [&world, action] { action(world); });
    });
    ++planned_;
  }

  void choose() {
    const std::uint32_t n = work_.size();
    const Rank rank{random_.rank(n)};
    const Rank other{(rank.value + 1 + random_.rank(n - 1)) % n};
    const Seq seq{random_.between(2, work_.ops.size() - 3)};
    switch (random_.between(0, 11)) {
      case 0:
      case 1: return crash(rank, seq);
      case 2: return pause(rank, seq);
      case 3: return lag(rank, seq);
      case 4: return slow(rank, other, seq);
      case 5: return oneWay(rank, other, seq);
      case 6: return duplicates();
      case 7: return damage(rank);
      case 8: return wrongShape(rank, seq);
      case 9: return nan(rank, seq);
      case 10: return ban(rank, other, seq);
      default: return leave(rank, seq);
    }
  }

  void crash(Rank rank, Seq seq) {
    const Duration evidence = random_.upTo(50ms);
    say("kill " + moment(rank, seq));
    trigger(rank, seq, [=](World& world) { world.crash(rank, evidence); });
  }
  void pause(Rank rank, Seq seq) {
    const Duration length = random_.chance(0.3) ? random_.upTo(60s) : random_.upTo(8s);
    say("stop " + moment(rank, seq) + " for " + std::to_string(toSeconds(length)) + " s");
    trigger(rank, seq, [=](World& world) { world.pause(rank, length); });
  }
  void lag(Rank rank, Seq seq) {
    const auto rounds = random_.between(1, 6);
    const Duration extra = random_.upTo(random_.chance(0.5) ? 10s : 500ms);
    say("compute lag of " + std::to_string(toSeconds(extra)) + " s, " + moment(rank, seq));
    for (std::uint64_t i = 0; i < rounds; ++i) {
      work_.ranks[rank.value].lag[Seq{seq.value + i}] = extra;
    }
    guilty_.push_back(rank);
  }
  void slow(Rank rank, Rank other, Seq seq) {
    const double rate = 1e4 * static_cast<double>(random_.between(1, 500));
    say("slow link to " + std::to_string(other.value) + " " + moment(rank, seq));
    trigger(rank, seq, [=](World& world) { world.slowLink(rank, other, rate); });
  }
  void oneWay(Rank rank, Rank other, Seq seq) {
    const Duration length = random_.upTo(random_.chance(0.5) ? 40s : 3s);
    const bool both = random_.chance(0.3);
    splits_ = true;
    say(std::string(both ? "two" : "one") + "-way partition to " + std::to_string(other.value) +
        " " + moment(rank, seq) + " for " + std::to_string(toSeconds(length)) + " s");
    trigger(rank, seq, [=](World& world) {
      world.block(rank, other, length);
      if (both) world.block(other, rank, length);
    });
  }
  void duplicates() {
    say("duplicates and reordering everywhere");
    armed_.push_back([](World& world) {
      eachLink(world, [](Link& link) {
        link.duplicate = 0.3;
        link.jitter = 2ms;
      });
    });
  }
  void damage(Rank rank) {
    const bool header = random_.chance(0.2);
    splits_ = true;
    say(std::string("damaged ") + (header ? "headers" : "payloads") + " from rank " +
        std::to_string(rank.value));
    guilty_.push_back(rank);
    // A message with a damaged header is lost without a trace: who misses it can not know why.
    for (std::uint32_t r = 0; header && r < work_.size(); ++r) guilty_.push_back(Rank{r});
    armed_.push_back([=](World& world) {
      for (std::uint32_t r = 0; r < world.work().size(); ++r) {
        if (Rank{r} == rank) continue;
        auto& link = world.network().link(rank, Rank{r});
        (header ? link.corrupt_header : link.corrupt_payload) = 0.1;
      }
    });
  }
  void wrongShape(Rank rank, Seq seq) {
    const bool other_op = random_.chance(0.3);
    splits_ = true;
    say("wrong model " + moment(rank, seq));
    guilty_.push_back(rank);
    if (work_.size() == 2) guilty_.push_back(Rank{1 - rank.value});
    auto& plan = work_.ranks[rank.value];
    plan.stops_on_mismatch = random_.chance(0.7);
    for (std::uint64_t s = seq.value; s <= work_.ops.size(); ++s) {
      RoundShape shape = work_.ops[s - 1];
      if (inPhases(shape)) continue;
      if (other_op) {
        shape.op = shape.op == ReduceOp::avg ? ReduceOp::sum : ReduceOp::avg;
        shape.premul = 1.0;
      } else {
        shape.numel += random_.between(1, 40'000);
      }
      plan.other[Seq{s}] = shape;
    }
  }
  void nan(Rank rank, Seq seq) {
    if (inPhases(work_.ops[seq.value - 1])) return;
    say("NaN " + moment(rank, seq));
    guilty_.push_back(rank);
    work_.ranks[rank.value].nan_at[seq] = random_.between(0, work_.ops[seq.value - 1].numel - 1);
  }
  void ban(Rank rank, Rank other, Seq seq) {
    say("ban of " + std::to_string(other.value) + " by " + moment(rank, seq));
    guilty_.push_back(other);
    const bool lift = random_.chance(0.5);
    trigger(rank, seq, [=](World& world) {
      world.noteFired();
      world.node(rank).ban(other, 5s);
      if (lift) world.at(toDuration(world) + 50ms, [=, &world] { world.node(rank).unban(other); });
    });
  }
  void leave(Rank rank, Seq seq) {
    say("leave " + moment(rank, seq));
    trigger(rank, seq, [=](World& world) { world.leave(rank); });
  }

  static Duration toDuration(World& world) { return world.now().time_since_epoch(); }
  template <class Fn>
  static void eachLink(World& world, Fn fn) {
    const std::uint32_t n = world.work().size();
    for (std::uint32_t a = 0; a < n; ++a) {
      for (std::uint32_t b = 0; b < n; ++b) fn(world.network().link(Rank{a}, Rank{b}));
    }
  }

  Random& random_;
  Workload& work_;
  std::vector<Action> armed_;
  std::vector<Rank> guilty_;
  std::string text_;
  std::uint64_t planned_ = 0;
  bool splits_ = false;  // members may disagree on who is there
};

}  // namespace

namespace {

// One to three ranks on each host. Whoever is left out there comes late here.
void share(Random& random, Workload& work) {
  for (std::uint32_t host = 0; work.hosts.size() < work.size(); ++host) {
    const auto ranks = random.between(1, 3);
    for (std::uint64_t i = 0; i < ranks && work.hosts.size() < work.size(); ++i) {
      work.hosts.push_back(host);
    }
  }
  for (std::uint32_t r = work.size(); r-- > 1;) {  // any ranks, not only neighbours
    if (random.chance(0.3)) std::swap(work.hosts[r], work.hosts[random.rank(r + 1)]);
  }
  for (auto& rank : work.ranks) rank.options.arrival_floor = rank.options.patience * 3 / 4;
}

}  // namespace

RandomJob randomJob(std::uint64_t seed, Trouble trouble, bool tracing, Places places) {
  Random random(seed);
  RandomJob job;
  Workload work = randomWork(random);
  if (places == Places::shared) share(random, work);
  std::optional<Faults> faults;
  if (trouble == Trouble::some) faults.emplace(random, work);
  const Duration jitter = random.upTo(500us);
  job.rounds = work.ops.size();
  const bool disturbed = places == Places::shared && trouble == Trouble::some && random.chance(0.3);
  job.world = std::make_unique<World>(std::move(work), random.bits(), tracing);
  const std::uint32_t n = job.world->work().size();
  if (disturbed) {
    job.world->hosts().disturb();
    for (std::uint32_t r = 0; r < n; ++r) job.world->checker().mark(Rank{r});
    job.faults = "ranks of a host disagree now and then; ";
  }
  for (std::uint32_t a = 0; a < n; ++a) {
    for (std::uint32_t b = 0; b < n; ++b)
      job.world->network().link(Rank{a}, Rank{b}).jitter = jitter;
  }
  if (faults) {
    faults->install(*job.world, job);
  } else {
    job.world->checker().expectFaultFree();
  }
  return job;
}

}  // namespace papilio::sim
