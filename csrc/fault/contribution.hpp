// The contributor's side of one tolerant round: where each chunk's result comes from, and the
// ladder for a missing one: RESULT -> FETCH -> REDO at the successor -> LOCAL (protocol A4).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "core/contributor_set.hpp"
#include "core/layout.hpp"
#include "core/wire.hpp"
#include "fault/arrival.hpp"
#include "fault/effects.hpp"
#include "fault/host_share.hpp"
#include "fault/members.hpp"
#include "fault/reduction.hpp"

namespace papilio::fault {

class Contribution {
 public:
  // `ceiling`: when the call must return whatever happened. `host`: what this rank's tensor is
  // made of; `zeroed`: what gets no result becomes 0 instead of keeping that.
  Contribution(const Members& members, const ArrivalPolicy& policy, Seq seq, SchemaHash schema,
               const RoundShape& shape, float weight, Time now, Time ceiling, HostShare host = {},
               bool zeroed = false);

  const RoundShape& shape() const { return shape_; }
  SchemaHash schema() const { return schema_; }
  const Layout& layout() const { return layout_; }
  bool done() const { return pending_ == 0; }

  // How this rank takes part in one chunk. What its host has combined is sent once, by the leader:
  // the lowest live rank whose data is in it. The others follow: they get the result from the
  // leader, or from the reducer if that is near. Who is not in it itself, or in a chunk whose parts
  // are made of different ranks, listens: it asks the reducer for the result and sends no data.
  enum class Voice : std::uint8_t { speaks, follows, listens };

  // Sends every chunk to its reducer. Returns the chunks that are this rank's own duty.
  std::vector<ChunkIndex> start(Effects& out);

  // Is this RESULT one that the chunk still waits for? (The caller verified header and membership.)
  bool wants(Rank from, const DataHeader& header) const;
  // A wanted RESULT was verified and applied.
  void gotResult(Time now, Rank from, const DataHeader& header, Effects& out);
  // The own duty was reduced and applied here.
  void gotOwn(ChunkIndex chunk, const Reduction::Result& result);
  // The result that `from` sent arrived damaged; it is asked to send it again.
  void damaged(Rank from, ChunkIndex chunk);
  // `from` has not got this chunk, or will not send it again / has it no more for good.
  void gotNone(Time now, Rank from, const msg::None& none, Effects& out);
  void gone(Rank from, ChunkIndex chunk, Effects& out);
  // `from` says that it has the chunk no more; a result that it sent before may be on its way.
  void stale(Time now, Rank from, ChunkIndex chunk);
  // Sends the chunk again after damage on the way; bounded. False: it does not go there.
  bool resend(Rank to, ChunkIndex chunk, Effects& out);

  // `failed` will return nothing; hard: it is certainly gone.
  void reducerFailed(Time now, Rank failed, bool hard, Effects& out);
  // Others route around `target`: redirect what still waits for it. Returns new own duties.
  std::vector<ChunkIndex> redirect(Time now, Rank target, Effects& out);
  // Fetches that nobody answered, or that ran out of time: next rung. Returns new own duties.
  std::vector<ChunkIndex> advance(Time now, Effects& out);
  // `rank` is overdue: its results are asked for elsewhere, and what comes of that says whose doing
  // it is.
  void suspect(Rank rank) { suspected_.insert(rank); }
  // Of those: who was asked about them has not got their results either, or there is nobody to ask.
  // The others are cleared: what this rank lacks has reached others, or nobody answered it.
  struct Findings {
    ContributorSet guilty, cleared;
    ContributorSet confirmed;  // the guilty of whom somebody else said so
  };
  Findings takeFindings();
  // What did not come from it is no fault of its own: this rank is behind.
  void excuse(Rank rank);
  // The ceiling passed, or the round is being ended: everything still missing becomes local.
  void giveUp(Effects& out);

  // `leader` does not speak for this rank: the next one of the host does, perhaps this one. Returns
  // new own duties.
  std::vector<ChunkIndex> leaderFailed(Time now, Rank leader, Effects& out);
  // Leaders that are silent for half an arrival budget: time enough for the next one to speak
  // before anybody is late because of it.
  ContributorSet silentLeaders(Time now) const;
  // The leader's sign of life to those who follow it, while it waits itself.
  void leadOn(Time now, Effects& out);
  Voice voice(ChunkIndex chunk) const { return chunks_[chunk.value].voice; }
  bool follows() const { return following_count_ != 0; }
  // Is that the leader whom it follows in the chunk?
  bool follows(Rank leader, ChunkIndex chunk) const;
  // Flags, weight and whose data it is, for a CONTRIB of the chunk.
  DataHeader contributionHeader(ChunkIndex chunk) const;
  // For a chunk that this rank has sent no data for: somebody may have its result.
  void askAround(Time now, ChunkIndex chunk, Effects& out);
  const std::vector<ReportChunk>& ranges() const { return host_.ranges; }

  // How long a result may take after the last sign of life of its reducer.
  Duration resultBudget(Rank target) const;
  // Reducers whose results are overdue.
  ContributorSet overdue(Time now) const;
  ContributorSet waitsAt() const;  // reducers whose results are missing, this rank too
  ContributorSet stuckAt() const;  // the same, and those that failed it and are asked for elsewhere
  // `target` can not answer yet, and that is not its fault: its time starts again.
  void grantTime(Time now, Rank target) { assigned_[target.value] = now; }
  // A reducer waits for others in this round: the time of its results has not begun.
  void reducerWaits(Time now, Rank target) { waited_at_[target.value] = now; }
  // Reducers that this rank waits for and has not heard of for half their time or longer.
  ContributorSet quiet(Time now) const;
  Time verdictAt() const;  // when a reducer will be overdue
  Time nextDeadline(Time verdict) const;
  Time ceiling() const { return ceiling_; }
  bool holds(ChunkIndex chunk) const;  // the result is in the tensor
  // For somebody who asks for its result: it came, or this rank waits in vain too.
  msg::Known known(Time now, ChunkIndex chunk) const;
  bool waits(ChunkIndex chunk) const { return chunks_[chunk.value].state != State::got; }
  DataHeader heldHeader(ChunkIndex chunk) const;  // for SendHeld: contributors, weight, attempt
  std::vector<ChunkRange> gotRanges() const;
  // Chunks that are here, or that were routed around `reducer`: they will not come to it.
  std::vector<ChunkRange> notAt(Rank reducer) const;
  Rank targetOf(ChunkIndex chunk) const { return chunks_[chunk.value].target; }
  // Would the result of this rank's own duty fill a hole? (It is the target, or nobody is.)
  bool takesOwn(ChunkIndex chunk) const {
    const Chunk& c = chunks_[chunk.value];
    return c.state == State::fetching || (c.state == State::waiting && c.target == members_.me());
  }
  bool untouched() const { return pending_ == chunks_.size(); }
  // A reducer said that my contribution was too late: I am behind.
  bool behind() const { return behind_; }
  bool counted() const { return counted_; }

  Report report() const;

  static constexpr Duration kFetchBudget = 250ms;
  static constexpr Duration kResultMargin = 250ms;  // result deadline > arrival deadline (A5)

 private:
  enum class State : std::uint8_t { waiting, fetching, got };
  struct Chunk {
    State state = State::waiting;
    Voice voice = Voice::speaks;
    bool via = false;  // follows, and the target is the leader, not the reducer
    Rank leader;       // whom it follows
    Rank target;
    std::uint16_t attempt = 0;
    std::uint8_t resends = 0;
    std::uint16_t why = 0;  // kNonFiniteDropped, kOthersSettled: why somebody is missing
    bool hard = false;      // fetching because the reducer is gone for good
    bool damaged = false;   // its reducer's result came, and was no good
    ContributorSet asked;   // fetching: who may still answer
    bool here = false;      // and this rank's own duty may, until fetch_until
    Time fetch_until{};
    Source source = Source::local;
    ContributorSet contributors;
    ContributorSet blamed;      // for those who are missing, by the reducer's word
    ContributorSet mismatched;  // and these are missing because of their model
    ContributorSet nonfinite;   // or because of a NaN or an infinity
    ContributorSet corrupt;     // or because their data arrived damaged each time
    double weight = 0;
  };
  void settle(Chunk& chunk, Source source, const ContributorSet& contributors, double weight);
  void leave(const Chunk& chunk);  // the state it is in
  void fillLocal(ChunkIndex index, Effects& out);
  // contribution_host.cpp
  void normalize();
  const ReportChunk* rangeOf(ChunkIndex index) const;
  template <class Fn>
  void eachRange(ChunkIndex index, Fn fn) const;
  void chooseVoice(ChunkIndex index);
  ContributorSet followersOf(ChunkIndex index) const;
  ContributorSet partsOf(ChunkIndex index) const;
  void relay(ChunkIndex index, Effects& out) const;
  void localEntries(ChunkIndex index, std::vector<ReportChunk>& out) const;
  bool assign(Time now, ChunkIndex index, Effects& out);  // true: own duty
  ContributorSet holdersAfter(Rank failed) const;
  void fetch(Time now, ChunkIndex index, const ContributorSet& ask, bool hard);
  Time resultDeadline(Rank target) const;
  Time leaderDeadline(Rank leader) const;
  Time hostDeadline() const;
  template <class Which>
  std::vector<ChunkRange> chunksThat(Which which) const;
  void blameMissing(Report& report) const;
  void blame(Report& report, Rank rank) const;
  void blameFor(Report& report, const Chunk& chunk, Rank owner) const;
  void blameForSettled(Report& report, const Chunk& chunk, Rank owner) const;

  const Members& members_;
  const ArrivalPolicy& policy_;
  Seq seq_;
  SchemaHash schema_;
  RoundShape shape_;
  Layout layout_;
  float weight_;
  Time entered_;
  Time ceiling_;
  std::vector<Chunk> chunks_;
  std::vector<std::uint32_t> waiting_at_;  // chunks in state waiting, by target
  std::vector<Time> assigned_;             // when the target last got a chunk to reduce
  std::vector<std::uint32_t> given_;       // chunks that it ever got to reduce
  std::vector<Time> waited_at_;            // when it last said that it waits for others
  HostShare host_;
  bool zeroed_;
  std::vector<std::uint32_t> via_at_;     // chunks in state waiting, by leader as the target
  std::vector<std::uint32_t> following_;  // chunks in state waiting, by leader
  std::uint32_t following_count_ = 0;
  std::vector<Time> followed_since_;
  ContributorSet failed_leaders_;
  ContributorSet followers_;  // of any chunk
  Time next_word_;            // to them
  std::uint32_t pending_ = 0;
  std::uint32_t fetching_ = 0;
  bool behind_ = false;
  bool counted_ = false;
  ContributorSet late_;  // when the round began
  std::map<Rank, Reason> failed_reducers_;
  ContributorSet suspected_;
  ContributorSet owes_others_;  // somebody else lacks results of theirs that this rank lacks
};

}  // namespace papilio::fault
