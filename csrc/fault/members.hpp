// What this rank thinks of every member of the group: is it there, is it waited for, may it reduce.
// Local opinion only; the round machines read it and tell it what they saw.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/contributor_set.hpp"
#include "core/ids.hpp"
#include "core/time.hpp"
#include "fault/blacklist.hpp"
#include "fault/options.hpp"
#include "fault/report.hpp"

namespace papilio::fault {

struct Member {
  enum class Link : std::uint8_t { joining, up, gone };
  // timely: waited for. late: missed a deadline, not waited for until it has caught up (sticky
  // lateness: a dead or slow rank costs one deadline per incident). catching_up: it is back and far
  // behind, and gets one patience to arrive.
  enum class Pace : std::uint8_t { timely, late, catching_up };

  Link link = Link::joining;
  Reason gone_reason = Reason::none;
  Incarnation incarnation;
  Pace pace = Pace::timely;
  Time late_since{};
  Time catch_up_until{};
  bool catch_up_spent = false;
  bool ever_contributed = false;
  bool routed_around = false;  // its shards go to its successor …
  Seq routed_from;             // … from this round on …
  Seq reinstated_from;         // … and from this one on to itself again (0: not announced)
  Seq promised;                // this rank told it alone: from there on it reduces again
  bool voted_out = false;      // by hearsay: others found its schema to be the wrong one
  bool refuses = false;        // it said that this rank is out: nothing comes from it
  Time reducer_life{};         // last RESULT or PROGRESS from it, any round
  Time asked = kNever;         // the oldest ping since its last sign of life of any kind
  // PROGRESS: in that round, which it has entered, it waits for these ranks.
  ContributorSet waits_for;
  Seq waits_in;
  Time waits_at{};
  Time waited_until{};     // when it said that it waits no longer
  bool held = false;       // it waited for others elsewhere when it was missed …
  ContributorSet held_by;  // … for these, as far as they were in trouble themselves
  Seq settled_before;      // it needs nothing of rounds before this one
  Seq gone_before;         // as a reducer it has no results of rounds before this one
  std::uint64_t judged_rounds = 0;
  std::uint32_t timely_streak = 0;
  std::vector<std::uint64_t> strikes;  // judged_rounds at each strike, last few
  double lag = 0;                      // seconds behind the median, moving average …
  std::uint32_t lag_samples = 0;       // … of up to this many
  Seq late_in;                         // round of its newest contribution that was too late …
  Duration late_by{};                  // … and by how much
};

class Members {
 public:
  Members(std::uint32_t n, Rank me, const GroupOptions& options, std::uint64_t jitter_seed);
  // Slots that have no process in this view, and why; before anything else.
  void leaveOut(const ContributorSet& absent, Reason why);
  const ContributorSet& absent() const { return absent_; }
  // Which members share a host: equal numbers, by rank. Without it everybody has its own.
  void place(const std::vector<std::uint32_t>& hosts);
  const ContributorSet& hostOf(Rank rank) const { return hosts_[rank.value]; }
  bool near(Rank rank) const { return rank != me_ && hosts_[me_.value].contains(rank); }

  std::uint32_t size() const { return n_; }
  Rank me() const { return me_; }
  ContributorSet slots() const { return ContributorSet::firstN(n_); }
  ContributorSet all() const { return slots() - absent_; }  // of this view
  Member& at(Rank rank) { return members_[rank.value]; }
  const Member& at(Rank rank) const { return members_[rank.value]; }
  Blacklist& blacklist() { return blacklist_; }
  const Blacklist& blacklist() const { return blacklist_; }

  // Dead, left, or training another model: nothing will come from it.
  bool gone(Rank rank) const;
  Reason goneReason(Rank rank) const;
  ContributorSet present() const;  // not gone, self included
  // Rounds wait for these (self included).
  ContributorSet expected() const;
  bool counts(Rank rank) const;  // its contributions may be added
  // What it sends for its host counts: slowness of its own is not held against the others, and
  // whom this rank has combined its data with can not be banned from it any more.
  bool speaksHere(Rank rank) const;
  bool mayReduce(Rank rank, Seq seq) const;  // its shards of that round go to it
  // First rank from `owner` on, in ring order, that may reduce; self when nobody else may.
  Rank reducerFor(Rank owner, Seq seq) const;
  // This rank reduces the owner's shards because they are its own, or because all before it are
  // gone: not by an opinion that others may not share.
  bool reducesForSure(Rank owner) const;
  bool onlyReducer(Seq seq) const;  // this rank has gone around all that are not gone
  // Who has gone around this rank and has its word for a later round: nothing comes to it in this.
  ContributorSet goingAround(Seq seq) const;
  // The processes of all from `owner` on that come before `reducer` in the ring have ended.
  bool endedBefore(Rank reducer, Rank owner) const;
  // The rank does not answer as a reducer.
  enum class Routed : std::uint8_t { known, earlier, news };  // earlier: now from an older round on
  Routed routeAround(Rank rank, Seq seq);
  // It announced that it reduces again from `seq` on.
  void reinstate(Rank rank, Seq seq);
  // A round was entered: forget route-arounds that ended before it.
  void entered(Seq seq);
  std::uint16_t ringDistance(Rank from, Rank to) const;
  Reason blameFor(Rank rank) const;  // why it is missing from a result
  // It says that this rank is the one that is out, and nobody said otherwise.
  bool refusedBy(Rank rank) const;
  bool doubted(Rank rank) const;  // gone, blacklisted, or not waited for
  PeerState state(Rank rank) const;

  // A sign of life: anything at all came from it.
  void heard(Rank rank) { at(rank).asked = kNever; }
  void asked(Time now, Rank rank) { at(rank).asked = std::min(at(rank).asked, now); }
  // Who was asked that long ago and said nothing since.
  ContributorSet silent(Time now, Duration limit) const;
  // Who became late since then, by this rank's own waiting and for no other rank's sake.
  ContributorSet lateSince(Time then) const;
  void judged(Rank rank) { ++at(rank).judged_rounds; }
  // The rank contributed in time (or nearly): wait for it and let it reduce again.
  void caughtUp(Rank rank);
  // It was doubted for what was this rank's own doing.
  void trustAgain(Rank rank);
  // It missed a deadline, by itself or held up by others (`held_by`, those to blame; there may be
  // none). True when that was the strike that blacklists it; who is held up gets none.
  bool missed(Time now, Rank rank, bool strike, const std::optional<ContributorSet>& held_by = {});
  // It said that it waits for `missing` in a round.
  void noteWaits(Time now, Rank rank, Seq seq, const ContributorSet& missing);
  // Who is to blame that `rank` can not enter round `seq`, by its own fresh word; those who wait
  // themselves are replaced by whom they wait for. Nothing if it waits for nobody but itself. Named
  // are only those who are doubted too (`late`: as of now) and this rank: everybody waits for the
  // healthy now and then.
  std::optional<ContributorSet> heldBy(Time now, Rank rank, Seq seq,
                                       const ContributorSet& late) const;
  // The end of all chains of waiting that start at `ranks`, which are missing in round `seq`.
  ContributorSet rootsOf(Time now, const ContributorSet& ranks, Seq seq) const;
  // A late rank shows life, far behind: one patience for it per incident.
  void startCatchUp(Time now, Rank rank, Duration patience);
  // This rank has given all that it owes in the rounds before: who says that it waits for it there
  // has only not got it yet.
  void throughBefore(Seq seq) { through_before_ = seq; }
  // How far behind the median it contributed to a round that waited for it.
  void recordLag(Rank rank, Duration lag);
  // The same for one that was not waited for. It falls behind further with every round; what it
  // lacks per round is what counts.
  void recordLateness(Rank rank, Seq seq, Duration lag);

 private:
  static constexpr std::uint64_t kStrikeWindow = 10;  // judged rounds
  static constexpr std::uint32_t kCleanStreak = 10;   // timely rounds that forget an incident
  static constexpr Duration kFreshWord = 500ms;       // five times the period of PROGRESS
  static void learnLag(Member& member, Duration lag);
  bool saysItWaits(Time now, const Member& member) const;  // and has said so a moment ago
  bool waits(Time now, Rank rank, Seq seq) const;
  // It said that it waits in a round after this one, so it is through with this one.
  bool stuckAfter(Time now, Rank rank, Seq seq) const;

  std::uint32_t n_;
  Rank me_;
  std::uint32_t slow_strikes_;
  ContributorSet absent_;
  Seq through_before_;
  std::vector<ContributorSet> hosts_;  // by rank
  std::array<Member, kMaxRanks> members_;
  Blacklist blacklist_;
};

}  // namespace papilio::fault
