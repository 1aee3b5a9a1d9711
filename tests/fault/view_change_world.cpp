#include "view_change_world.hpp"

#include <algorithm>

namespace papilio::fault {

ViewWorld::ViewWorld(std::uint32_t n, std::uint64_t seed, Duration patience) : random_(seed) {
  nodes_.resize(n);
  step_ = std::chrono::milliseconds(1 + random_() % 20);
  for (std::uint32_t r = 0; r < n; ++r) {
    ViewChange::Config config;
    config.me = Rank{r};
    config.members = ContributorSet::firstN(n);
    config.patience = patience;
    config.seed = seed;
    nodes_[r].machine = std::make_unique<ViewChange>(config);
    at(now_ + step_, [this, r] { train(Rank{r}); });
  }
}

Duration ViewWorld::delay() {
  const auto most = static_cast<std::uint64_t>(max_delay.count());
  return Duration(static_cast<std::int64_t>(1000 + random_() % most));
}

void ViewWorld::at(Time when, std::function<void()> action) {
  events_.emplace(when, std::move(action));
}

void ViewWorld::onceEngaged(Rank rank, std::function<void()> action) {
  if (nodes_[rank.value].machine->engaged()) return action();
  at(now_ + 100us, [this, rank, action = std::move(action)] { onceEngaged(rank, action); });
}

void ViewWorld::run(Time limit) {
  while (!events_.empty() && events_.begin()->first <= limit) {
    auto event = std::move(events_.begin()->second);
    now_ = events_.begin()->first;
    events_.erase(events_.begin());
    event();
  }
  now_ = std::max(now_, limit);
}

// Runs an event at a node: now, or when it thaws.
void ViewWorld::feed(Rank rank, std::function<void(Node&)> event) {
  Node& node = nodes_[rank.value];
  if (node.state == State::dead) return;
  if (now_ < node.frozen_until) {
    node.missed.push_back([this, rank, event = std::move(event)] { feed(rank, event); });
    return;
  }
  event(node);
  perform(rank);
}

void ViewWorld::perform(Rank rank) {
  Node& node = nodes_[rank.value];
  for (auto& effect : node.machine->takeEffects()) {
    if (auto* send = std::get_if<view::SendControl>(&effect)) {
      Time& busy = node.link_busy_until[send->to];
      busy = std::max(busy, now_ + delay());
      at(busy, [this, rank, to = send->to, ballot = send->ballot] {
        feed(to, [this, rank, ballot](Node& target) {
          target.machine->control(now_, rank, ballot, target.reached);
        });
      });
    } else if (auto* install = std::get_if<view::Install>(&effect)) {
      answered(rank, State::installed, install->next);
    } else if (auto* expelled = std::get_if<view::Expelled>(&effect)) {
      answered(rank, State::expelled, expelled->next);
    } else if (std::holds_alternative<view::Undecided>(effect)) {
      answered(rank, State::undecided, {});
    } else {
      answered(rank, State::training, {});
    }
  }
  const Time next = node.machine->nextDeadline();
  if (next != kNever) at(std::max(next, now_), [this, rank] { tick(rank); });
}

void ViewWorld::tick(Rank rank) {
  if (now_ < nodes_[rank.value].machine->nextDeadline()) return;
  feed(rank, [this](Node& node) { node.machine->tick(now_, node.reached); });
}

void ViewWorld::answered(Rank rank, State state, std::optional<NextView> view) {
  Node& node = nodes_[rank.value];
  node.state = state;
  node.view = std::move(view);
  if (state != State::training) return;
  ++passes;
  const auto jitter = std::chrono::microseconds(random_() % 2000);
  at(now_ + step_ + jitter, [this, rank] { train(rank); });
}

// The end of a training step: a boundary.
void ViewWorld::train(Rank rank) {
  feed(rank, [this, rank](Node& node) {
    ++node.reached;
    if (!node.machine->asks()) return answered(rank, State::training, {});
    node.state = State::held;
    node.machine->arrived(now_, node.reached);
  });
}

void ViewWorld::want(Rank rank, const Joiner& joiner) {
  feed(rank, [this, joiner](Node& node) { node.machine->want(now_, joiner); });
}

void ViewWorld::kill(Rank rank) {
  if (nodes_[rank.value].state == State::dead) return;
  nodes_[rank.value].state = State::dead;
  for (std::uint32_t r = 0; r < size(); ++r) {
    at(now_ + delay() * 3, [this, r, rank] {
      feed(Rank{r}, [this, rank](Node& node) {
        node.machine->gone(now_, rank, ViewChange::Gone::dead, node.reached);
      });
    });
  }
}

void ViewWorld::freeze(Rank rank, Duration how_long) {
  Node& node = nodes_[rank.value];
  node.frozen_until = now_ + how_long;
  at(node.frozen_until, [this, rank] {
    auto missed = std::exchange(nodes_[rank.value].missed, {});
    for (auto& event : missed) event();
  });
}

}  // namespace papilio::fault
