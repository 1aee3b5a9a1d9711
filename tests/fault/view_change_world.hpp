// Members that agree on their next view, in virtual time: links that delay, processes that die or
// freeze, ranks that train at their own pace. Shared by the scenarios and the random search.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "fault/view_change.hpp"

namespace papilio::fault {

class ViewWorld {
 public:
  enum class State : std::uint8_t { training, held, installed, expelled, undecided, dead };
  struct Node {
    std::unique_ptr<ViewChange> machine;
    State state = State::training;
    std::uint64_t reached = 0;  // boundaries
    Time frozen_until{};
    std::optional<NextView> view;              // that it installed, or that went on without it
    std::deque<std::function<void()>> missed;  // while frozen
    std::map<Rank, Time> link_busy_until;      // links keep the order of messages
  };

  ViewWorld(std::uint32_t n, std::uint64_t seed, Duration patience = 1s);

  void want(Rank at, const Joiner& joiner);
  void kill(Rank rank);  // the others see it a moment later
  void freeze(Rank rank, Duration how_long);
  void at(Time when, std::function<void()> action);
  // As soon as that rank takes part in a ballot.
  void onceEngaged(Rank rank, std::function<void()> action);
  // Until nothing happens any more, or `limit`.
  void run(Time limit);

  Node& node(std::uint32_t rank) { return nodes_[rank]; }
  std::uint32_t size() const { return static_cast<std::uint32_t>(nodes_.size()); }
  Time now() const { return now_; }
  Duration delay();  // of one message
  // Everybody trains on after this one passed its boundary.
  std::uint64_t passes = 0;

  Duration max_delay = 2ms;

 private:
  void feed(Rank rank, std::function<void(Node&)> event);
  void perform(Rank rank);
  void answered(Rank rank, State state, std::optional<NextView> view);
  void train(Rank rank);
  void tick(Rank rank);

  std::vector<Node> nodes_;
  std::multimap<Time, std::function<void()>> events_;
  Time now_{1s};
  Duration step_{};  // of training
  std::mt19937_64 random_;
};

}  // namespace papilio::fault
