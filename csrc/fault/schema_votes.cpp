#include "fault/schema_votes.hpp"

#include "fault/mutant.hpp"

namespace papilio::fault {

void SchemaVotes::add(Rank rank, SchemaHash schema, const RoundShape& shape) {
  if (!votes_.emplace(rank, schema).second) return;
  shapes_.emplace(schema, shape);
}

std::optional<SchemaHash> SchemaVotes::of(Rank rank) const {
  const auto it = votes_.find(rank);
  if (it == votes_.end()) return std::nullopt;
  return it->second;
}

ContributorSet SchemaVotes::votersOf(SchemaHash schema) const {
  ContributorSet out;
  for (const auto& [rank, vote] : votes_) {
    if (vote == schema) out.insert(rank);
  }
  return out;
}

ContributorSet SchemaVotes::voters() const {
  ContributorSet out;
  for (const auto& [rank, vote] : votes_) out.insert(rank);
  return out;
}

const RoundShape* SchemaVotes::shapeOf(SchemaHash schema) const {
  const auto it = shapes_.find(schema);
  return it == shapes_.end() ? nullptr : &it->second;
}

std::optional<SchemaVotes::Decision> SchemaVotes::decide(const ContributorSet& present,
                                                         bool force) const {
  std::optional<SchemaHash> leader;
  std::uint32_t best = 0;
  bool tie = false;
  ContributorSet voted;
  for (const auto& [schema, shape] : shapes_) {
    const auto voters = votersOf(schema) & present;
    voted = voted | voters;
    const bool more = PAPILIO_MUTANT(schema_majority)
                          ? best == 0 || (!voters.empty() && voters.count() < best)
                          : voters.count() > best;
    if (more) {
      leader = schema;
      best = voters.count();
      tie = false;
    } else if (voters.count() == best) {
      tie = true;
    }
  }
  const bool everybody = (present - voted).empty();
  if (best * 2 <= present.count() && !everybody && !force) return std::nullopt;
  Decision decision;
  if (!tie && leader) {
    decision.winner = leader;
    decision.winners = votersOf(*leader) & present;
  }
  decision.losers = voted - decision.winners;
  return decision;
}

}  // namespace papilio::fault
