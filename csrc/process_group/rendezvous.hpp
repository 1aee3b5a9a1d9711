// How the members of a new group find each other: one record per rank in the group's store.
#pragma once

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <string>
#include <vector>

#include "core/contributor_set.hpp"
#include "core/ids.hpp"

namespace papilio::pg {

// Who is in a group, or in one view of it.
struct Meeting {
  GroupId id;
  std::vector<std::string> records;  // engine::GroupConfig::records
  std::string place{};               // names that the group's keys in the store begin with
  // See engine::GroupConfig. View 0: this rank alone, until the others let it in.
  ViewNumber view{1};
  std::uint64_t boundaries = 0;
  ContributorSet absent{};
  ContributorSet fresh{};
};

// Publishes this rank's record, waits for all others, checks that they agree on size and version.
// Throws c10::DistBackendError that names the ranks that are missing or differ (Options.hierarchy
// too). `rejoin`: if
// another process has met the others as this rank already, take its place: view 0.
Meeting meet(c10d::Store& store, int rank, int size, const std::string& record,
             const std::string& hierarchy, std::uint64_t group_number,
             std::chrono::milliseconds limit, bool rejoin);

// Equal on all members of the first group: from the store, unless the user set one.
std::string jobSecret(c10d::Store& store);

}  // namespace papilio::pg
