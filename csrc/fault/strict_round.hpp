// One strict collective: all members enter with the same shape, then exchange blocks in phases. It
// ends in the result, or in an error that names the culprit; never in a partial value.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/contributor_set.hpp"
#include "core/round_shape.hpp"
#include "fault/effects.hpp"
#include "fault/members.hpp"

namespace papilio::fault {

// What the engine tells the machine about a strict collective; sizes only, no memory.
struct StrictSpec {
  RoundShape shape;
  // phases[p][r]: blocks expected from rank r, and whether there is something to send to it.
  struct Exchange {
    std::uint32_t recv_blocks = 0;
    bool sends = false;
  };
  std::vector<std::vector<Exchange>> phases;
  bool needs_all = false;
  ContributorSet needed;
  std::uint64_t nbytes = 0;
};

class StrictRound {
 public:
  StrictRound(const Members& members, Seq seq, SchemaHash schema, StrictSpec spec, Time deadline);
  virtual ~StrictRound() = default;

  const StrictSpec& spec() const { return spec_; }
  SchemaHash schema() const { return schema_; }
  Time deadline() const { return deadline_; }
  bool ended() const { return ended_; }
  const ContributorSet& entered() const { return entered_; }
  // How it failed here, if it did: the answer to a member that enters after that.
  const std::optional<msg::StrictFailed>& failure() const { return failure_; }

  // Announces the entry to every member; fails at once if somebody needed is gone.
  virtual void start(Effects& out);
  // `from` entered with the same shape, counting on `members`.
  virtual void peerEntered(Rank from, const ContributorSet& members, Effects& out);
  // Is this block expected? Then place it; blockPlaced() once it is verified and copied.
  virtual bool wantsBlock(Rank from, std::uint16_t phase, std::uint32_t index) const;
  virtual void blockPlaced(Rank from, std::uint16_t phase, std::uint32_t index, Effects& out);
  // All blocks of a SendBlocks effect were staged: the user's memory is not needed for it any more.
  void blocksPosted(Rank to, std::uint16_t phase, Effects& out);
  // The rank is gone for good.
  virtual void peerGone(Rank rank, Reason reason, Effects& out);
  // Somebody else failed this collective and says because of whom.
  virtual void peerFailedIt(Rank from, const msg::StrictFailed& failure, Effects& out);
  // Only a tolerant broadcast has a use for it.
  virtual void handover(Rank, const msg::Handover&, Effects&) {}
  void fail(RoundError error, Effects& out);
  // The others are told that it is because of this rank.
  void failByItself(RoundError error, Effects& out);
  // Members that have not entered, or owe data: whom a deadline blames.
  virtual ContributorSet owing() const;
  // Who gave the data in place of the dead root, once that is known.
  virtual std::optional<Rank> standIn() const { return std::nullopt; }

 protected:
  void announceEntry(Effects& out);
  void finish(RoundError error, Effects& out);

  const Members& members_;
  Seq seq_;
  SchemaHash schema_;
  StrictSpec spec_;
  Time deadline_;
  ContributorSet taking_part_;  // members of this collective, self included
  ContributorSet counted_on_;   // the same at entry
  ContributorSet entered_;
  std::vector<ContributorSet> unsent_;  // per phase: SendBlocks not yet posted
  ContributorSet gave_;                 // gone since, but all its data is here and counts
  std::map<Rank, Reason> quit_;         // gone from this collective alone
  bool ended_ = false;
  std::optional<msg::StrictFailed> failure_;
  bool self_suspect_ = false;  // others gave it up because of this rank

 private:
  virtual void advance(Effects& out);
  // What the report says of a result: where it came from, and from whom.
  virtual Source source() const { return Source::reduced; }
  virtual ContributorSet contributors() const { return taking_part_ | gave_; }
  void launchPhase(Effects& out);
  bool agreesOnMembers(const ContributorSet& members, Effects& out);
  void failBecauseOf(Rank rank, Reason reason, Effects& out);
  msg::StrictFailed failureOf(const RoundError& error) const;

  std::uint16_t phase_ = 0;                          // the one whose data is being collected
  std::uint16_t launched_ = 0;                       // phases whose sends were asked for
  std::vector<std::vector<std::vector<bool>>> got_;  // [phase][rank][block]
  std::vector<std::vector<std::uint32_t>> left_;     // blocks still to come, [phase][rank]
};

// "3, 5", for texts.
std::string listed(const ContributorSet& ranks);

}  // namespace papilio::fault
