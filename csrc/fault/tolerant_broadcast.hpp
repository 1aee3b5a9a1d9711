// A broadcast that outlives its root. Every member ends it with the same bytes: the root's, if any
// survivor has them complete, else those of the lowest live rank, which stands in for the root.
//
//   - Whoever has the whole tensor says HAS to all, and a member is through only when all members
//     that are left said so: if anybody returned, everybody has the data.
//   - Whoever lacks it while its giver is gone says LACKS to all, with the ranks from which it
//   takes
//     nothing any more, and gets it from a member that said HAS.
//   - The lowest live rank takes its own tensor when every other member said LACKS about all ranks
//     that are gone for it. Who had the data of one of those before would have said HAS instead, so
//     no second version can turn up (docs/protocol.md, "Broadcast").
//
// This holds while members agree in the end on who is gone. Across a broken link between two live
// members every rank still ends with one whole tensor or an error.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "fault/strict_round.hpp"

namespace papilio::fault {

class TolerantBroadcast final : public StrictRound {
 public:
  // Phases of the spec: where the giver has the data that it sends. The receiver puts both into the
  // same place.
  static constexpr std::uint16_t kReceived =
      0;                                    // at the root its tensor, else what came from others
  static constexpr std::uint16_t kOwn = 1;  // the tensor of a stand-in

  TolerantBroadcast(const Members& members, Seq seq, SchemaHash schema, StrictSpec spec,
                    Time deadline);

  void start(Effects& out) override;
  void peerEntered(Rank from, const ContributorSet& members, Effects& out) override;
  bool wantsBlock(Rank from, std::uint16_t phase, std::uint32_t index) const override;
  void blockPlaced(Rank from, std::uint16_t phase, std::uint32_t index, Effects& out) override;
  void peerGone(Rank rank, Reason reason, Effects& out) override;
  // Somebody that gave it up for reasons of its own is gone from this collective; the others go on.
  void peerFailedIt(Rank from, const msg::StrictFailed& failure, Effects& out) override;
  void handover(Rank from, const msg::Handover& message, Effects& out) override;
  ContributorSet owing() const override;
  std::optional<Rank> standIn() const override;

 private:
  Rank root() const { return Rank{spec_.shape.root}; }
  bool has() const { return holders_.contains(members_.me()); }
  ContributorSet dropped() const { return members_.all() - taking_part_; }
  ContributorSet others() const;
  void advance(Effects& out) override;
  Source source() const override;
  ContributorSet contributors() const override;
  void lookForGiver(Effects& out);
  bool mayStandIn() const;
  ContributorSet disagreeing() const;
  void gotIt(Effects& out);
  void serve(Rank to, Effects& out);
  void tell(Rank to, Holding holding, Effects& out) const;
  void tellOthers(Holding holding, Effects& out) const;
  void expectFrom(std::optional<Rank> giver);

  std::optional<Rank> giver_;  // whose blocks are taken now
  Rank origin_;                // whose tensor that is
  std::vector<bool> got_;      // blocks of giver_
  std::uint32_t left_ = 0;
  ContributorSet holders_;                  // said HAS, self included
  std::map<Rank, Rank> origin_of_;          // whose tensor a holder has
  std::map<Rank, ContributorSet> lacking_;  // said LACKS: what it takes nothing from
  ContributorSet served_;                   // blocks were sent to these, once
};

}  // namespace papilio::fault
