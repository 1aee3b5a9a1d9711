#include "sim/world.hpp"

#include <cstdio>
#include <set>

namespace papilio::sim {

World::World(Workload work, std::uint64_t seed, bool tracing)
    : work_(std::move(work)),
      random_(seed),
      network_(queue_, random_, work_.size()),
      hosts_(queue_, random_, work_),
      checker_(work_),
      tracing_(tracing) {
  for (std::uint32_t r = 0; r < work_.size(); ++r) {
    nodes_.push_back(std::make_unique<Node>(
        Surroundings{queue_, network_, random_, work_, *this, hosts_}, Rank{r}, seed + r));
  }
}

void World::crash(Rank rank, Duration evidence_after, const std::map<Rank, Duration>& told) {
  Node& victim = node(rank);
  if (!victim.alive()) return;
  if (!victim.through()) ++fired_;
  checker_.mark(rank);
  victim.crash();
  queue_.after(evidence_after, [this, rank] { hosts_.gone(rank); });
  for (auto& other : nodes_) {
    if (other->rank() == rank) continue;
    const Duration chance = evidence_after + random_.upTo(evidence_after);
    const auto exactly = told.find(other->rank());
    queue_.after(exactly == told.end() ? chance : exactly->second, [&other = *other, rank] {
      other.gone(rank, fault::Reason::dead, "process ended (exit seen by pidfd)");
    });
  }
}

void World::pause(Rank rank, Duration length) {
  if (node(rank).state() != Node::State::running) return;
  if (!node(rank).through()) ++fired_;
  checker_.mark(rank);
  node(rank).pause();
  queue_.after(length, [this, rank] { node(rank).resume(); });
}

void World::leave(Rank rank) {
  checker_.mark(rank);
  if (!node(rank).through()) ++fired_;
  node(rank).leave();
  hosts_.gone(rank);
}

void World::block(Rank from, Rank to, Duration length) {
  checker_.mark(from);
  checker_.mark(to);
  ++fired_;
  if (tracing_) trace(from, "can no longer reach " + std::to_string(to.value));
  network_.block(from, to);
  queue_.after(length, [this, from, to] { network_.unblock(from, to); });
}

void World::slowLink(Rank from, Rank to, double bytes_per_second) {
  checker_.mark(from);
  checker_.mark(to);  // it enters the next round late because of it
  ++fired_;
  network_.setRate(from, to, bytes_per_second);
}

void World::onEnter(Rank rank, Seq seq, Duration delay, std::function<void()> action) {
  triggers_.emplace(std::pair{rank, seq}, std::pair{delay, std::move(action)});
}

bool World::run(std::uint64_t most_events) {
  for (auto& node : nodes_) {
    queue_.after(random_.upTo(1ms), [&node = *node] { node.start(); });
  }
  std::uint64_t events = 0;
  while (queue_.step()) {
    if (++events > most_events) {
      checker_.fail("the world does not come to rest");
      return false;
    }
  }
  for (const auto& node : nodes_) {
    if (node->state() == Node::State::running) checker_.quiescent(*node);
  }
  std::set<Rank> survivors;
  for (const auto& node : nodes_) {
    if (node->state() == Node::State::running && !node->stopped()) survivors.insert(node->rank());
  }
  checker_.checkAgreement(survivors);
  return true;
}

void World::entered(Rank rank, Seq seq, const RoundShape& shape) {
  checker_.entered(rank, seq, shape);
  const auto [first, last] = triggers_.equal_range({rank, seq});
  for (auto it = first; it != last; ++it) queue_.after(it->second.first, it->second.second);
}

void World::finished(Rank rank, const Finished& round) {
  if (tracing_) {
    std::string line = "RETURNS seq " + std::to_string(round.seq.value) + " ";
    if (round.error) {
      line += std::string(name(round.error.kind)) + ": " + round.error.text;
    } else {
      line += name(round.report.outcome);
      for (const auto& chunk : round.report.chunks) {
        line += " [" + std::to_string(chunk.start) + "," + std::to_string(chunk.stop) +
                ")=" + name(chunk.source) + "{";
        const char* comma = "";
        chunk.contributors.forEach([&](Rank who) {
          line += comma + std::to_string(who.value);
          comma = ",";
        });
        line += "}";
      }
    }
    for (const auto& [who, reason] : round.report.blamed) {
      line += " blames " + std::to_string(who.value) + ":" + name(reason);
    }
    if (!round.report.late.empty()) line += " late";
    if (round.report.self_suspect) line += " self_suspect";
    trace(rank, line);
  }
  checker_.finished(rank, round);
  returns_.push_back({rank, round, queue_.now()});
  returns_.back().round.output.clear();
  returns_.back().round.output.shrink_to_fit();
}

void World::noticed(Rank rank, const fault::Event& event) {
  checker_.noticed(rank, event);
  events_.emplace_back(rank, event);
}

void World::trace(Rank rank, const std::string& line) {
  char when[32];
  std::snprintf(when, sizeof when, "%10.3f ms  %u  ",
                toSeconds(queue_.now().time_since_epoch()) * 1e3, rank.value);
  lines_.push_back(when + line);
}

}  // namespace papilio::sim
