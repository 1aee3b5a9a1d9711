// Decides the view that follows the current one: a single-decree ballot (Paxos) among the current
// members, protocol B2 and C. Pure: events in, time as an argument, effects out.
//
// A *boundary* is what the local rank calls between two training steps; boundaries are numbered
// from 1. The decision names the boundary at which the new view begins. A member that promised a
// ballot passes no boundary until it has accepted a proposal, and the proposal begins later than
// everything that was promised. So no member of the new view is ever past its beginning, unless it
// missed two ballots; that one is expelled and comes back as a joiner.
//
// Every event carries `reached`: how many boundaries the local rank has reached. While it asks(),
// the rank must call arrived() at each boundary and wait for the answer.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/contributor_set.hpp"
#include "core/control_message.hpp"
#include "core/ids.hpp"
#include "core/time.hpp"
#include "core/view.hpp"
#include "fault/options.hpp"
#include "fault/report.hpp"

namespace papilio::fault {

namespace view {

struct SendControl {
  Rank to;
  msg::Ballot ballot;
};
// Answers to arrived(): go on in this view; …
struct Pass {};
// … this boundary begins that view; …
struct Install {
  NextView next;
};
// … the others go on without this rank; …
struct Expelled {
  NextView next;
};
// … nothing was decided in time, for want of a quorum.
struct Undecided {
  ContributorSet silent;  // members that the rank could not hear
};
using Effect = std::variant<SendControl, Pass, Install, Expelled, Undecided>;
using Effects = std::vector<Effect>;

}  // namespace view

class ViewChange {
 public:
  struct Config {
    Rank me;
    ContributorSet members;  // of the current view
    Quorum quorum = Quorum::live;
    Duration patience = 5s;
    std::uint64_t seed = 0;  // jitter
  };

  explicit ViewChange(Config config);

  // A process asks for a slot (again, as a new one), or is gone before it was let in.
  void want(Time now, const Joiner& joiner);
  void unwant(const Joiner& joiner);
  // dead: hard evidence that its process has ended. left: it is through with the group, which is
  // no reason for another view, as at the end of a job all leave. Neither has a vote any more.
  // away: out of reach, or gone on to a view whose decision this rank has missed.
  enum class Gone : std::uint8_t { dead, left, away };
  void gone(Time now, Rank rank, Gone how, std::uint64_t reached);
  void control(Time now, Rank from, const msg::Ballot& ballot, std::uint64_t reached);
  // The local rank stands at boundary `step` and waits for an answer.
  void arrived(Time now, std::uint64_t step);
  void tick(Time now, std::uint64_t reached);
  Time nextDeadline() const;
  view::Effects takeEffects() { return std::exchange(effects_, {}); }

  bool engaged() const { return promised_ != 0 || decided_.has_value(); }
  bool asks() const { return engaged() || at_first_boundary_; }
  const std::optional<NextView>& decided() const { return decided_; }

 private:
  enum class Phase : std::uint8_t { none, prepare, propose };
  struct Promise {
    std::uint64_t step = 0;
    std::uint64_t accepted = 0;
    std::optional<NextView> next;
  };

  void start(Time now, std::uint64_t reached);
  void propose(Time now, std::uint64_t reached);
  NextView fresh() const;
  void maybePropose(Time now, std::uint64_t reached);
  void maybeDecide(bool overdue);
  void decide(const NextView& next);
  void resolve();
  void schedule(Time now);
  void standBack(Time now);
  bool needed(std::uint64_t reached) const;
  bool quorumOf(const ContributorSet& set) const;
  ContributorSet reachable() const { return config_.members - gone_; }
  Duration turn() const;  // how long this rank lets those before it go first
  void toReachable(const msg::Ballot& ballot);
  void onPrepare(Time now, Rank from, const msg::Ballot& ballot, std::uint64_t reached);
  void onPropose(Time now, Rank from, const msg::Ballot& ballot);

  Config config_;
  Duration takeover_;
  ContributorSet gone_;   // no message comes from them
  ContributorSet ended_;  // of those, who has no vote
  ContributorSet left_;
  std::map<Rank, Joiner> wants_;
  // Acceptor.
  std::uint64_t promised_ = 0;
  std::uint64_t accepted_number_ = 0;
  std::optional<NextView> accepted_;
  std::optional<NextView> decided_;
  // Coordinator.
  Phase phase_ = Phase::none;
  std::uint64_t number_ = 0;   // of the own ballot
  std::uint64_t highest_ = 0;  // ballot seen
  std::map<Rank, Promise> promises_;
  std::optional<NextView> proposal_;
  ContributorSet accepts_;
  Time phase_until_ = kNever;
  Time next_attempt_ = kNever;
  // The local rank.
  bool at_first_boundary_ = false;  // a member died before it: another view is wanted from there on
  std::optional<std::uint64_t> waiting_;
  Time wait_until_ = kNever;
  std::uint64_t random_;
  view::Effects effects_;
};

}  // namespace papilio::fault
