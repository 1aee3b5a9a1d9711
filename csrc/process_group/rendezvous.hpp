// How the members of a new group find each other: one record per rank in the group's store.
#pragma once

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <string>
#include <vector>

#include "core/ids.hpp"

namespace papilio::pg {

struct Meeting {
  GroupId id;
  std::vector<std::string> records;  // engine::GroupConfig::records
};

// Publishes this rank's record, waits for all others, checks that they agree on size and version.
// Throws c10::DistBackendError that names the ranks that are missing or differ.
Meeting meet(c10d::Store& store, int rank, int size, const std::string& record,
             std::uint64_t group_number, std::chrono::milliseconds limit);

// Equal on all members of the first group: from the store, unless the user set one.
std::string jobSecret(c10d::Store& store);

}  // namespace papilio::pg
