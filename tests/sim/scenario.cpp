#include "sim/scenario.hpp"

#include <fstream>
#include <sstream>
#include <stdexcept>

namespace papilio::sim {
namespace {

constexpr const char* kTraceMark = "=== trace";

class Player {
 public:
  explicit Player(const std::string& script) {
    std::istringstream lines(script);
    for (std::string line; std::getline(lines, line);) {
      line = line.substr(0, line.find('#'));
      if (line.find_first_not_of(' ') == std::string::npos) continue;
      words_ = std::istringstream(line);
      try {
        read(word());
      } catch (const std::exception&) {
        throw std::runtime_error("scenario line not understood: " + line);
      }
    }
  }

  std::unique_ptr<World> run() {
    auto world = std::make_unique<World>(work_, seed_, true);
    for (const auto& prepare : prepare_) prepare(*world);
    world->run();
    return world;
  }

 private:
  using Action = std::function<void(World&)>;

  std::string word() {
    std::string out;
    if (!(words_ >> out)) throw std::runtime_error("a word is missing");
    return out;
  }
  double number() { return std::stod(word()); }
  Duration milliseconds() { return fromSeconds(number() / 1e3); }
  Rank rank() { return Rank{static_cast<std::uint32_t>(number())}; }
  Seq seq() { return Seq{static_cast<std::uint64_t>(number())}; }

  void eachRank(const std::function<void(RankPlan&)>& change) {
    for (auto& plan : work_.ranks) change(plan);
  }

  void read(const std::string& what) {
    if (what == "ranks") {
      work_.ranks.resize(static_cast<std::size_t>(number()));
    } else if (what == "hosts") {
      for (std::uint32_t r = 0; r < work_.size(); ++r) {
        work_.hosts.push_back(static_cast<std::uint32_t>(number()));
      }
      eachRank([](RankPlan& p) { p.options.arrival_floor = p.options.patience * 3 / 4; });
    } else if (what == "seed") {
      seed_ = static_cast<std::uint64_t>(number());
    } else if (what == "depth") {
      work_.depth = static_cast<std::uint32_t>(number());
    } else if (what == "op") {
      op();
    } else if (what == "when") {
      when();
    } else if (what == "link") {
      link();
    } else {
      plan(what);
    }
  }

  // What the ranks are told and what they do.
  void plan(const std::string& what) {
    if (what == "patience") {
      const Duration value = milliseconds();
      eachRank([&](RankPlan& p) { p.options.patience = value; });
    } else if (what == "strikes") {
      const auto value = static_cast<std::uint32_t>(number());
      eachRank([&](RankPlan& p) { p.options.slow_strikes = value; });
    } else if (what == "blacklist") {
      const Duration value = milliseconds();
      eachRank([&](RankPlan& p) { p.options.blacklist_base = value; });
    } else if (what == "min_peers") {
      const auto value = static_cast<std::uint32_t>(number());
      eachRank([&](RankPlan& p) { p.options.min_peers = value; });
    } else if (what == "compute") {
      const Duration value = milliseconds();
      eachRank([&](RankPlan& p) { p.compute = value; });
    } else if (what == "lag") {
      const Rank who = rank();
      const Seq at = seq();
      const Duration lag = milliseconds();
      work_.ranks.at(who.value).lag[at] = lag;
      prepare_.push_back(
          [=](World& world) {  // only lateness beyond patience may be held against it
            const Duration patience = world.work().ranks[who.value].options.patience;
            if (lag >= patience) world.checker().mark(who);
          });
    } else if (what == "nan") {
      const Rank who = rank();
      const Seq at = seq();
      prepare_.push_back([=](World& world) { world.checker().mark(who); });
      work_.ranks.at(who.value).nan_at[at] = static_cast<std::uint64_t>(number());
    } else if (what == "wrong") {
      wrong();
    } else {
      throw std::runtime_error("unknown word");
    }
  }

  void op() {
    std::string kind = word();
    std::uint64_t times = 1;
    if (kind[0] == 'x') {
      times = std::stoull(kind.substr(1));
      kind = word();
    }
    RoundShape shape;
    if (kind == "avg") shape.op = ReduceOp::avg;
    if (kind == "strict" || kind == "broadcast" || kind == "allgather" || kind == "barrier") {
      shape.strict = true;
      shape.dtype = DType::int64;
      shape.kind = kind == "broadcast"   ? OpKind::broadcast
                   : kind == "allgather" ? OpKind::allgather
                   : kind == "barrier"   ? OpKind::barrier
                                         : OpKind::allreduce;
    } else if (kind != "sum" && kind != "avg") {
      throw std::runtime_error("unknown collective");
    }
    shape.numel = shape.kind == OpKind::barrier ? 0 : static_cast<std::uint64_t>(number());
    if (shape.kind == OpKind::broadcast) shape.root = rank().value;
    work_.ops.insert(work_.ops.end(), times, shape);
  }

  // Another number of elements from that round on.
  void wrong() {
    const Rank who = rank();
    auto& plan = work_.ranks.at(who.value);
    prepare_.push_back([=](World& world) {
      world.checker().mark(who);
      if (world.work().size() == 2) world.checker().mark(Rank{1 - who.value});
    });
    const Seq from = seq();
    const auto numel = static_cast<std::uint64_t>(number());
    for (std::uint64_t s = from.value; s <= work_.ops.size(); ++s) {
      RoundShape shape = work_.ops[s - 1];
      shape.numel = numel;
      plan.other[Seq{s}] = shape;
    }
  }

  void link() {
    const Rank from = rank();
    const Rank to = rank();
    const std::string what = word();
    const double value = number();
    prepare_.push_back([=](World& world) {
      Link& changed = world.network().link(from, to);
      if (what == "duplicate") changed.duplicate = value;
      if (what == "corrupt") changed.corrupt_payload = value;
      if (what == "rate") changed.bytes_per_second = value;
      if (what == "delay") changed.latency = fromSeconds(value / 1e3);
      world.checker().mark(from);
      world.checker().mark(to);
    });
  }

  void when() {
    const Rank who = rank();
    const Seq at = seq();
    const Duration delay = milliseconds();
    const Action action = fault(word());
    prepare_.push_back(
        [=](World& world) { world.onEnter(who, at, delay, [&world, action] { action(world); }); });
  }

  Action fault(const std::string& what) {
    const Rank who = rank();
    if (what == "kill") return [=](World& world) { world.crash(who, 5ms); };
    if (what == "leave") return [=](World& world) { world.leave(who); };
    if (what == "stop") {
      const Duration length = milliseconds();
      return [=](World& world) { world.pause(who, length); };
    }
    const Rank other = rank();
    if (what == "block") {
      const Duration length = milliseconds();
      return [=](World& world) { world.block(who, other, length); };
    }
    if (what == "slow") {
      const double rate = number();
      return [=](World& world) { world.slowLink(who, other, rate); };
    }
    if (what == "ban") {
      const Duration term = milliseconds();
      return [=](World& world) {
        world.checker().mark(other);
        world.noteFired();
        world.node(who).ban(other, term);
      };
    }
    throw std::runtime_error("unknown fault");
  }

  Workload work_;
  std::uint64_t seed_ = 1;
  std::istringstream words_;
  std::vector<Action> prepare_;
};

}  // namespace

Scenario readScenario(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("can not read " + path);
  Scenario out;
  bool trace = false;
  for (std::string line; std::getline(file, line);) {
    if (line == kTraceMark) {
      trace = true;
    } else if (trace) {
      out.expected.push_back(line);
    } else {
      out.script += line + "\n";
    }
  }
  return out;
}

void writeScenario(const std::string& path, const Scenario& scenario) {
  std::ofstream file(path);
  file << scenario.script << kTraceMark << "\n";
  for (const auto& line : scenario.expected) file << line << "\n";
}

std::unique_ptr<World> play(const Scenario& scenario) { return Player(scenario.script).run(); }

std::vector<std::string> shown(const World& world) {
  std::vector<std::string> out;
  for (const auto& line : world.lines()) {
    const bool noise = line.find("<= ") != std::string::npos ||
                       line.find("<- ") != std::string::npos ||
                       line.find("PROGRESS") != std::string::npos;
    if (!noise) out.push_back(line);
  }
  return out;
}

}  // namespace papilio::sim
