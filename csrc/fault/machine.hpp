// The protocol of one group: all its rounds, strict collectives and members. Pure: events in, time
// as an argument, effects out. Drain takeEffects() after every call; call tick() at nextDeadline().
//
//   judge()/accepted()  one data message: first its header, then, once its bytes are verified and
//                       in place, the confirmation
//   control(), peer*()  one control message, or what the engine knows of a member's process
//   enter*(), cancel()  the local rank
//
// Single-threaded. Ranks are group ranks; the caller has checked that `from` is who it says.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/control_message.hpp"
#include "core/wire.hpp"
#include "fault/arrival.hpp"
#include "fault/contribution.hpp"
#include "fault/effects.hpp"
#include "fault/members.hpp"
#include "fault/options.hpp"
#include "fault/reduction.hpp"
#include "fault/schema_votes.hpp"
#include "fault/strict_round.hpp"
#include "fault/tolerant_broadcast.hpp"

namespace papilio::fault {

struct MachineConfig {
  GroupId group;
  ViewNumber view{1};
  Rank me;
  std::uint32_t size = 1;
  GroupOptions options;
  std::uint64_t seed = 0;  // jitter
  ContributorSet absent;   // slots without a process in this view, and why
  Reason absent_because = Reason::dead;
  // Members with equal numbers share a host, by rank; empty: nobody combines anything.
  std::vector<std::uint32_t> hosts;
};

// What to do with the payload of a data message.
enum class Admission : std::uint8_t {
  drop,   // nothing
  keep,   // verify, keep as contribution, then accepted()
  apply,  // verify, copy into the user's tensor, then accepted()
  place,  // verify, copy to where the strict collective wants it, then accepted()
  defer,  // hand it in again once the local rank has entered that round
};

// Monotonic counters; why messages were dropped and how rounds ended.
struct MachineCounters {
  std::uint64_t rounds_complete = 0, rounds_degraded = 0, rounds_local = 0, rounds_failed = 0;
  std::uint64_t dropped_stale = 0, dropped_duplicate = 0, dropped_schema = 0;
  std::uint64_t dropped_blacklisted = 0, dropped_malformed = 0, dropped_corrupt = 0;
  std::uint64_t dropped_unexpected = 0;
  std::uint64_t late_contributions = 0, strikes = 0, bans = 0, fallback_bytes = 0;
  std::uint64_t fetches = 0, redone_chunks = 0;
};

class Machine {
  // Rounds behind the newest that still count as "here": the pipeline of one training step.
  static constexpr std::uint64_t kNearlyCurrent = 2;

 public:
  explicit Machine(MachineConfig config);

  // The local rank.
  // `host`: what the tensor is made of, if the ranks of this host have combined theirs.
  void enterAllreduce(Time now, Seq seq, const RoundShape& shape, Duration timeout,
                      HostShare host = {});
  void enterStrict(Time now, Seq seq, StrictSpec spec, Duration timeout);
  // The local rank waits for others of its host before it can enter that round; or no longer.
  void combining(std::optional<Seq> seq) { combining_ = seq; }
  // Ends a round of this rank early; unknown or ended rounds are left alone.
  void cancel(Time now, Seq seq, ErrorKind kind, const std::string& text);
  void cancelAll(Time now, ErrorKind kind, const std::string& text);
  void ban(Time now, Rank rank, std::optional<Duration> term, const std::string& why);
  void unban(Time now, Rank rank);

  // Data lane.
  Admission judge(Time now, Rank from, const DataHeader& header);
  void accepted(Time now, Rank from, const DataHeader& header, bool intact);
  // Reports of the engine about effects it performed.
  void reduced(Time now, Seq seq, SchemaHash schema, ChunkIndex chunk,
               const ContributorSet& actual);
  void blocksPosted(Time now, Rank to, Seq seq, std::uint16_t phase);

  // Control lane and process liveness.
  void control(Time now, Rank from, const ControlBody& body);
  void peerUp(Time now, Rank rank, Incarnation incarnation);
  void peerGone(Time now, Rank rank, Reason reason, const std::string& evidence);
  // This process did not run for `gap`: whatever looks late now may be this rank's own doing.
  void paused(Time now, Duration gap);
  // A member's progress thread answered a ping.
  void heard(Time now, Rank from);

  void tick(Time now);
  Time nextDeadline() const;
  Effects takeEffects();

  const Members& members() const { return members_; }
  const MachineCounters& counters() const { return counters_; }
  const ArrivalPolicy& policy() const { return policy_; }
  GroupId group() const { return config_.group; }
  ViewNumber view() const { return config_.view; }
  // Contributors, weight and attempt for the header of an outgoing RESULT.
  DataHeader resultHeader(Seq seq, SchemaHash schema, ChunkIndex chunk) const;
  DataHeader heldHeader(Seq seq, ChunkIndex chunk) const;
  DataHeader relayHeader(Seq seq, ChunkIndex chunk) const;
  // Shape, weight and whose data it is, for the header of an outgoing CONTRIB. With kListens it has
  // no payload.
  DataHeader contributionHeader(Seq seq, ChunkIndex chunk) const;
  // Is the local contribution to this chunk still wanted by `to`?
  bool wantsSend(Rank to, Seq seq, ChunkIndex chunk) const;
  // Does the local tensor still hold this rank's input of the chunk? (Nothing was written to it.)
  bool holdsInput(Seq seq, ChunkIndex chunk) const;
  const RoundShape* shapeOf(Seq seq, SchemaHash schema) const;
  std::uint64_t keptBytes() const { return kept_bytes_; }
  std::size_t roundsHeld() const { return rounds_.size(); }
  bool idle() const { return active_ == 0; }

 private:
  struct Round {
    std::unique_ptr<Contribution> local;  // set while and after the local rank took part
    std::unique_ptr<StrictRound> strict;
    std::map<SchemaHash, std::unique_ptr<Reduction>> variants;
    SchemaVotes votes;
    ContributorSet nacked;  // told once that their schema differs
    std::map<Rank, msg::Enter> early_enters;
    std::vector<msg::Verdict> early_verdicts;
    std::map<Rank, msg::StrictFailed> early_failures;
    std::optional<SchemaHash> my_schema;
    bool finished = false;  // the local rank is through
    bool given_up = false;  // its results went before the round did: nothing is reduced again
    bool verdict_known = false;
    std::optional<SchemaHash> winner;  // of a contested schema
    Time contested_since = kNever;
    Time ask_at = kNever;      // when a strict one asks those it waits for whom they wait for
    Time vote_until = kNever;  // when the vote is decided by those who showed up
    bool self_suspect = false;
  };
  using Rounds = std::map<Seq, Round>;

  // machine.cpp
  void finishLocal(Time now, Seq seq, Round& round, RoundError error);
  void emitFinish(Round& round, Report report, RoundError error);
  bool quorumHolds() const;
  void checkQuorum(Time now);
  RoundError quorumError() const;
  void prune();
  static bool quiet(const Round& round);
  static bool keepsResults(const Round& round);
  static void closeReady(Round& round, Effects& out);
  static bool voteOpen(const Round& round) {
    return round.votes.contested() && !round.verdict_known;
  }
  void dropVariants(Seq seq, Round& round);
  // machine_rounds.cpp
  void ownDuties(Time now, Seq seq, Round& round, const std::vector<ChunkIndex>& chunks);
  void withdrawRedirected(Round& round);
  void pump(Time now, Seq seq, Round& round);
  void expireRound(Time now, Seq seq, Round& round);
  bool creditsSpent(Rank rank, Rank owner) const;
  void judgeLate(Time now, Seq seq, Round& round, const ContributorSet& late);
  void doubtSilently(Time now, const ContributorSet& ranks);
  // What this rank, as a reducer, has against a late rank, as text; nothing if it has no say.
  std::optional<std::string> lateness(const Round& round, Rank rank) const;
  void struck(Time now, Seq seq, Rank rank, bool strike, const std::string& why);
  ContributorSet votedOtherwise(const Round& round, SchemaHash schema) const;
  void expireStrict(Time now, Seq seq, Round& round);
  void redirectAll(Time now, Rank target);
  void noteLags(Reduction& reduction);
  void counted(Rank from, const Reduction& reduction);
  void resolveSchema(Time now, Seq seq, Round& round, bool force);
  void losesSchema(Time now, Seq seq, Round& round, const SchemaVotes::Decision& decision);
  void blacklistSchema(Time now, Seq seq, Rank rank);
  void tellSchema(Seq seq, Round& round, Rank to);
  bool evicted() const;
  RoundError evictedError() const;
  void failEvicted(Time now);
  void contested(Time now, Round& round) const;
  bool undecided(const SchemaVotes::Decision& decision, const Round& round, Time now) const;
  // machine_blame.cpp
  void blameForAbsent(Time now, const Round& round, Reduction& reduction, Seq seq,
                      ChunkIndex chunk) const;
  ContributorSet mismatchedIn(const Round& round, const Reduction& reduction,
                              ChunkIndex chunk) const;
  ContributorSet heldUpBy(Time now, Seq seq) const;
  ContributorSet toBlame(Time now, Seq seq, const Round& round) const;
  ContributorSet waitedFor(const Round& round) const;
  void sayHeld(Time now, Seq asked);
  void sayCombines(Time now);
  void sayWaits(Time now, Seq seq, const Round& round);
  // machine_suspects.cpp
  Time verdictAt() const;
  Time probeAt(Time verdict) const;
  void probe(Time now);
  bool isolated(Time now, Seq seq, const ContributorSet& late);
  void suspectReducer(Time now, Seq seq, Rank rank);
  void judgeReducers(Time now, Seq seq, Round& round);
  void accuse(Time now, Seq seq, Rank rank, bool confirmed);
  void comeBack();
  void announceReturn(Seq counted);
  void on(Time now, Rank from, const msg::Suspect& suspect);
  void on(Time now, Rank from, const msg::Reinstate& reinstate);
  // machine_host.cpp
  bool plausible(Rank from, const DataHeader& header) const;
  bool welcome(const DataHeader& header) const;
  std::optional<ContributorSet> heldByLeader(Rank rank, const ContributorSet& late) const;
  bool early(Rank from, const DataHeader& header) const;
  Admission listen(Time now, Rank from, const DataHeader& header, Round& round,
                   Reduction& reduction);
  void voteForHost(Rank from, const DataHeader& header, Round& round) const;
  void leaderFailed(Time now, Seq seq, Round& round, Rank leader);
  void giveChunk(Time now, Rank from, const DataHeader& header, Reduction& reduction);
  // machine_data.cpp
  Admission judgeContribution(Time now, Rank from, const DataHeader& header);
  Admission judgeResult(Rank from, const DataHeader& header);
  Admission judgeBlock(Rank from, const DataHeader& header);
  bool sane(const DataHeader& header) const;
  bool inWindow(Rank from, Seq seq);
  bool givenUp(Rank from, Seq seq);
  Reduction& variant(Time now, Seq seq, Round& round, SchemaHash schema, const RoundShape& shape);
  void noteLateness(Time now, Rank from, Seq seq, Reduction& reduction);
  void lateContribution(Time now, Rank from, const DataHeader& header);
  void sendLate(Rank to, const DataHeader& header);
  void pumpChanged(Time now);
  void hearOfLate(Time now, const Round& round, const DataHeader& header);
  void passOn(Round& round, const DataHeader& asked);
  // machine_control.cpp
  void on(Time now, Rank from, const msg::Enter& enter);
  void on(Time now, Rank from, const msg::StrictFailed& failure);
  void on(Time now, Rank from, const msg::Nack& nack);
  void sendAgain(Rank to, const msg::Nack& nack);
  void on(Time now, Rank from, const msg::Verdict& verdict);
  void on(Time now, Rank from, const msg::Progress& progress);
  void on(Time now, Rank from, const msg::Fetch& fetch);
  void on(Time now, Rank from, const msg::None& none);
  void on(Time now, Rank from, const msg::Settled& settled);
  void on(Time now, Rank from, const msg::Handover& handover);
  void on(Time now, Rank from, const msg::Leave& leave);
  void on(Time now, Rank from, const msg::Join& join);
  // Point-to-point messages and ballots have machines of their own (p2p.hpp, view_change.hpp).
  void on(Time, Rank, const msg::Offer&) {}
  void on(Time, Rank, const msg::Accept&) {}
  void on(Time, Rank, const msg::Withdraw&) {}
  void on(Time, Rank, const msg::Ballot&) {}
  void refuseStrict(Seq seq, Rank to);
  void announceSettled(Rank gone);
  std::unique_ptr<StrictRound> makeStrict(Seq seq, SchemaHash schema, StrictSpec spec,
                                          Time deadline);
  void strictEnded(Seq seq, Round& round);
  void strictMismatch(Time now, Seq seq, Round& round, bool decide_now = false);
  void strictFailedBy(Time now, Rank from, const msg::StrictFailed& failure, Round& round);

  void notify(EventKind kind, Rank rank, Reason reason, Seq seq, std::string detail);
  void toControl(Rank to, ControlBody body) {
    effects_.push_back(effect::SendControl{to, std::move(body)});
  }
  void toOthers(const ControlBody& body);
  Round* find(Seq seq);
  const Round* find(Seq seq) const;
  Seq oldestActive() const;

  MachineConfig config_;
  Members members_;
  ArrivalPolicy policy_;
  MachineCounters counters_;
  Rounds rounds_;
  Effects effects_;
  std::uint64_t kept_bytes_ = 0;    // result bytes kept for late members
  Seq entered_;                     // newest round of the local rank
  Seq forgotten_before_;            // rounds before this one are gone here
  Seq newest_;                      // newest round anybody showed
  std::size_t active_ = 0;          // local rounds not finished
  std::set<Seq> live_;              // rounds that may still change: unfinished, or collecting
  std::map<Rank, Rank> stand_ins_;  // dead root of broadcasts -> who acted last in its place
  std::map<Seq, msg::StrictFailed> strict_failures_;  // for members that enter after the end
  ContributorSet evicted_by_;      // said that this rank is out, and showed no change of mind
  bool opinions_changed_ = false;  // who is waited for changed: other rounds may close
  Time suspect_self_until_{};
  Time held_said_{};  // when this rank last said whom it waits for
  std::optional<Seq> combining_;
  Time probed_{};                       // when this rank last asked the others for a sign of life
  std::optional<Time> isolated_since_;  // most of them gave none, or are late
  std::set<Seq> said_waits_;            // rounds in which it said so, and has not taken it back
};

}  // namespace papilio::fault
