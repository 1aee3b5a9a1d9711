// The reducer's side of one round and one schema: which contributions of which chunk are here, whom
// it still waits for, when it stops waiting. Needs no local entry (headless, protocol A5).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "core/contributor_set.hpp"
#include "core/layout.hpp"
#include "core/round_shape.hpp"
#include "core/wire.hpp"
#include "fault/arrival.hpp"
#include "fault/effects.hpp"
#include "fault/members.hpp"

namespace papilio::fault {

class Reduction {
 public:
  Reduction(const Members& members, const ArrivalPolicy& policy, Seq seq, SchemaHash schema,
            const RoundShape& shape);

  enum class Admit : std::uint8_t { keep, duplicate, late };
  // What a contribution of a leader is, that speaks for the ranks of its host.
  struct Share {
    ContributorSet set;        // whose data it is
    ContributorSet host;       // nothing else comes from these
    ContributorSet nonfinite;  // of the host, left out because of NaN or Inf
  };

  const RoundShape& shape() const { return shape_; }
  const Layout& layout() const { return layout_; }
  SchemaHash schema() const { return schema_; }

  // What to do with a contribution of `src`; the duty (owner + attempt = me) was checked before.
  Admit admit(Rank src, ChunkIndex chunk) const;
  // A contribution is here, or (src = me) the local tensor is.
  void arrived(Time now, Rank src, ChunkIndex chunk, float weight, const Share* share = nullptr);
  // They wait for the result of the chunk, and nothing comes from them.
  void listens(const ContributorSet& ranks, ChunkIndex chunk) {
    Duty& duty = dutyFor(chunk);
    duty.listening = duty.listening | ranks;
  }
  // `src` takes part in the round (it gets results pushed), whether or not its data counts.
  void showed(Time now, Rank src);
  // `src` needs nothing and sends nothing for these chunks.
  void settle(Rank src, ChunkRange chunks);
  // Makes sure the chunk is on duty here even before anybody contributed to it.
  void open(ChunkIndex chunk) { dutyFor(chunk); }
  bool onDuty(ChunkIndex chunk) const { return duties_.count(chunk.value) != 0; }

  // Closes every chunk that waits for nobody.
  void closeReady(Effects& out);
  // The engine reduced: `actual` is what really went in (a non-finite minority may be gone).
  // Nothing went in when only the local tensor was to be used and is complete by now: the chunk
  // reopens. `had_input`: the local tensor still held this rank's own contribution.
  void reduced(Time now, ChunkIndex chunk, const ContributorSet& actual, bool had_input,
               Effects& out);

  // Members it still waits for, over all chunks on duty that somebody contributed to.
  ContributorSet waitingFor() const;
  // Has the rank spent all its credits for the owner's shard on chunks that are open here?
  using CreditsSpent = std::function<bool(Rank rank, Rank owner)>;
  // Members whose deadline has passed; they are not waited for any more in this round. Whose data
  // can not come before a chunk closes that waits for another one is not late; its clock restarts.
  ContributorSet expire(Time now, const CreditsSpent& spent);
  // Open chunks of the owner's shard that have the rank's contribution.
  std::uint32_t openFrom(Rank rank, Rank owner) const;
  struct Due {
    Time verdict = kNever;  // when somebody will be late
    Time any = kNever;      // that, or something has to be said
  };
  Due due() const;
  // These are in the round with another schema: they will not come, and they are not late.
  void excuse(const ContributorSet& ranks) {
    absent_ = absent_ | ranks;
    mismatched_ = mismatched_ | ranks;
  }
  const ContributorSet& mismatched() const { return mismatched_; }
  // Nothing closes before the vote on the schema is over.
  void holdOpen(bool open) { vote_open_ = open; }
  // `src` takes its contributions back from chunks that are still open (one of them, or all).
  void withdraw(Rank src, ChunkIndex chunk);
  void withdraw(Rank src);
  // Every member that is present contributed to every chunk on duty, and all are closed.
  bool complete() const;
  // Shards (by owner) that are certainly this rank's to reduce and that still wait for `rank`.
  ContributorSet shardsAwaited(Rank rank) const;
  // Is the chunk on duty here and still open?
  bool collecting(ChunkIndex chunk) const;
  // `src` waits for the chunk although its contribution is not taken.
  void refused(Rank src, ChunkIndex chunk) { dutyFor(chunk).refused.insert(src); }
  // Ranks whose contributions to an open chunk are here, or were refused.
  ContributorSet arrivedAt(ChunkIndex chunk) const;
  // Whoever contributed to the open chunk got its result from elsewhere.
  void discard(ChunkIndex chunk, Effects& out);
  // Closes the chunk with what is here: nobody else will send anything for it.
  void hurry(ChunkIndex chunk);
  // True once, at the first closed chunk.
  bool firstClose() { return kept_bytes_ != 0 && !std::exchange(first_close_seen_, true); }
  bool idle() const;  // nothing collecting that somebody contributed to
  bool hasMedian() const { return median_ != kNever; }
  // Lag of `rank` behind the median arrival, if both are known.
  std::optional<Duration> lagOf(Rank rank) const;
  const ContributorSet& shown() const { return shown_; }
  // It contributed itself, or somebody else for it.
  bool here(Rank rank) const { return shown_.contains(rank) || represented_.contains(rank); }
  // The same for one whose first contribution comes too late to count; once per rank.
  std::optional<Duration> lateBy(Time now, Rank rank);

  struct Result {
    ContributorSet contributors;
    double weight_sum = 0;
    ContributorSet nonfinite;   // left out because of NaN or Inf
    ContributorSet corrupt;     // not in it: their data arrived damaged each time
    ContributorSet absent;      // not in it, and neither non-finite, corrupt nor settled
    ContributorSet blamed;      // who is to blame for the absent
    ContributorSet mismatched;  // the absent who train another model
    ContributorSet spoken_for;  // the absent of whom their host knows that nothing comes
    bool settled = false;       // somebody is not in it because they had the chunk already
    bool missed = false;        // somebody is not in it who missed a deadline in this very round
  };
  // nullptr while the chunk is not closed here.
  const Result* result(ChunkIndex chunk) const;
  // For a closed chunk, before its result goes out. `elsewhere`: the others have another reducer.
  void blame(ChunkIndex chunk, const ContributorSet& blamed, const ContributorSet& mismatched,
             bool elsewhere) {
    Result& result = duties_.at(chunk.value).result;
    result.blamed = blamed;
    result.mismatched = mismatched;
    result.settled = result.settled || elsewhere;
  }
  std::uint64_t keptBytes() const { return kept_bytes_; }
  // What `from` sent for the chunk arrived damaged; its sender repeats it a few times.
  void damaged(Rank from, const DataHeader& header);
  // NACK(corrupt) repeats of a result, bounded per chunk and receiver.
  bool mayResend(Rank to, ChunkIndex chunk);

  // PROGRESS to those who wait here, at most every kProgressEvery. `voters`: who has not voted yet.
  // True if it was sent.
  bool reportProgress(Time now, const ContributorSet& voters, Effects& out);
  static constexpr Duration kProgressEvery = 100ms;

 private:
  enum class Phase : std::uint8_t { collecting, reducing, closed };
  struct Duty {
    Phase phase = Phase::collecting;
    bool hurried = false;
    std::map<Rank, std::uint8_t> resends;  // of the result, by receiver, once damaged
    std::map<Rank, std::uint8_t> damages;  // by sender
    ContributorSet corrupt;                // not waited for: damaged too often
    ContributorSet arrived;
    ContributorSet refused;
    ContributorSet settled;
    ContributorSet listening;
    std::map<Rank, Share> shares;   // of those who arrived and speak for others too
    std::map<Rank, float> weights;  // where they differ from weights_
    Result result;
  };
  Duty& dutyFor(ChunkIndex chunk);
  // The only way to change a duty's phase.
  void enter(Phase phase, std::uint32_t chunk, Duty& duty);
  // Calls fn(chunk, duty) for the chunks that are collecting, in ascending order.
  template <class Fn>
  void forEachOpen(Fn&& fn) const {
    for (const std::uint32_t chunk : open_) fn(ChunkIndex{chunk}, duties_.at(chunk));
  }
  ContributorSet waitingFor(const Duty& duty, const ContributorSet& expected) const;
  ContributorSet settledRanks() const;
  void noteArrivalOrder(Time now);
  Time deadlineOf(Rank rank) const;
  Time deadlineOfItsOwn(Rank rank) const;
  bool heldHere(Rank rank, const CreditsSpent& spent) const;
  Time deadlineAlone(Rank rank) const;
  double weightOf(const Duty& duty, const ContributorSet& sources) const;
  static ContributorSet setOf(const Duty& duty, const ContributorSet& sources);
  ContributorSet covered(const Duty& duty) const;
  ContributorSet chosen(const Duty& duty) const;
  void represent(Time now, Rank src, const Share& share);

  const Members& members_;
  const ArrivalPolicy& policy_;
  Seq seq_;
  SchemaHash schema_;
  RoundShape shape_;
  Layout layout_;
  std::map<std::uint32_t, Duty> duties_;
  // Those of duties_ that are collecting, ascending: a large tensor has many chunks, and what is
  // asked for at every step is about the few that are open.
  std::vector<std::uint32_t> open_;
  // SETTLED that came before the chunk was on duty here.
  std::vector<std::pair<Rank, ChunkRange>> settled_early_;
  ContributorSet shown_;        // took part in any way
  ContributorSet represented_;  // their data came with a leader's
  std::vector<Rank> speakers_;  // by rank: who spoke for it last
  ContributorSet absent_;       // missed its deadline in this round, or has another schema
  ContributorSet noted_late_;
  ContributorSet mismatched_;  // has another schema
  std::vector<Time> first_seen_;
  std::vector<Time> last_seen_;
  std::vector<Time> held_until_;  // no deadline before that: it was held up by this reducer
  std::vector<float> weights_;
  Time begun_{};          // when the newest duty got its first contribution
  Time median_ = kNever;  // when half of the expected members had shown up
  Time last_close_{};
  Time reopened_{};  // when this rank last began to stand in for another
  Time next_progress_ = kNever;
  std::uint64_t kept_bytes_ = 0;
  bool first_close_seen_ = false;
  bool vote_open_ = false;
};

}  // namespace papilio::fault
