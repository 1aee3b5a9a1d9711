// The membership that follows a view: who is in it, who is new, and where it begins.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/bytes.hpp"
#include "core/contributor_set.hpp"
#include "core/ids.hpp"

namespace papilio {

// A process that takes a slot. Its record (host:port and process id) is also its incarnation: no
// two processes have the same.
struct Joiner {
  Rank rank;
  std::string record;
  bool operator==(const Joiner&) const = default;
};

// Limits of a decided view: it must fit one control message.
inline constexpr std::size_t kMaxJoiners = 3;
inline constexpr std::size_t kMaxRecordBytes = 96;

struct NextView {
  // The view begins when its members reach their boundary with this number (the end of a training
  // step, counted from 1 in the life of the group).
  std::uint64_t step = 0;
  ContributorSet members;       // the joiners' slots included
  std::vector<Joiner> joiners;  // ascending by rank
  bool operator==(const NextView&) const = default;
};

void writeView(ByteWriter& writer, const NextView& view);
// Sets the reader's error for anything that writeView() can not have made.
NextView readView(ByteReader& reader);
// "from step 7 members {0,1,3}, new: 3", for traces and logs.
std::string describe(const NextView& view);

}  // namespace papilio
