// The memory side of a strict collective in a simulated node: what goes to whom in which phase.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "fault/strict_round.hpp"
#include "sim/workload.hpp"

namespace papilio::sim {

struct StrictWork {
  struct Piece {
    Bytes send;
    Bytes received;
  };
  struct Phase {
    std::vector<Piece> pieces;  // by rank
    std::function<void(const ContributorSet&)> then;
  };
  std::vector<Phase> phases;
  // Tolerant broadcast: whoever gives the data, and from wherever, it is put here, and sent on from
  // here in phase 0.
  std::optional<Bytes> common;
  const Bytes& sendOf(std::uint16_t phase, Rank to) const {
    return common && phase == 0 ? *common : phases[phase].pieces[to.value].send;
  }
  Bytes& receivedOf(std::uint16_t phase, Rank from) {
    return common ? *common : phases[phase].pieces[from.value].received;
  }
  bool needs_all = false;
  ContributorSet needed;
};

// Fills `work` for one collective. `tensor` is the input, and after the last phase the output
// (all-gather: all pieces in rank order). Both must stay where they are while the work runs.
// `members` are those of the entry, of n ranks.
void prepare(StrictWork& work, std::uint32_t n, const ContributorSet& members, Rank me,
             const RoundShape& shape, Bytes& tensor);
fault::StrictSpec specOf(const StrictWork& work, const RoundShape& shape, std::uint32_t n);

}  // namespace papilio::sim
