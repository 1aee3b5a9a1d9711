// Who showed which schema in one round, and what follows from it: the schema that most members have
// wins; a minority, or everybody in a tie, has the wrong model (protocol A6).
#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include "core/contributor_set.hpp"
#include "core/round_shape.hpp"

namespace papilio::fault {

class SchemaVotes {
 public:
  // First word counts: a rank votes once per round.
  void add(Rank rank, SchemaHash schema, const RoundShape& shape);
  bool contested() const { return shapes_.size() > 1; }
  std::optional<SchemaHash> of(Rank rank) const;
  ContributorSet votersOf(SchemaHash schema) const;
  ContributorSet voters() const;
  const RoundShape* shapeOf(SchemaHash schema) const;

  struct Decision {
    std::optional<SchemaHash> winner;  // nullopt: a tie
    ContributorSet winners;
    ContributorSet losers;
  };
  // Decided when one schema has more than half of `present`, when all of them voted, or `force`.
  std::optional<Decision> decide(const ContributorSet& present, bool force) const;

 private:
  std::map<Rank, SchemaHash> votes_;
  std::map<SchemaHash, RoundShape> shapes_;
};

}  // namespace papilio::fault
