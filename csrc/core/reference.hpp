// What travels in the place of elements in a round by reference (Codec::reference): where each rank
// has them, in memory that the others can read. The table is the same for every collective; who
// contributes fills in the row of its rank, and the result holds the rows of the contributors.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/ids.hpp"

namespace papilio {

// Ranks of a group that can do this: those of one host.
inline constexpr std::uint32_t kMaxReferences = 16;

struct Reference {
  enum Flag : std::uint32_t {
    present = 1,    // the rest means something
    nonfinite = 2,  // there is a NaN or an infinity among the elements
  };
  std::uint32_t flags = 0;
  float weight = 1.0F;
  // The owner's board (device_lane/board.hpp): descriptor `fd` of process `pid`.
  std::uint32_t pid = 0;
  std::int32_t fd = -1;
  std::array<std::uint64_t, 2> nonce{};
  // The memory, as its device names it to other processes, and where in it what is, in bytes.
  std::array<std::byte, 64> handle{};
  std::uint64_t size = 0;
  std::uint64_t input = 0;   // the elements
  std::uint64_t part = 0;    // room for the part that this rank averages
  std::uint64_t serial = 0;  // of this use of that memory
};
static_assert(sizeof(Reference) == 128 && std::is_trivially_copyable_v<Reference>);

using ReferenceTable = std::array<Reference, kMaxReferences>;  // by rank

}  // namespace papilio
