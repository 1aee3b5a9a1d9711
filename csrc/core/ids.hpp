// Strong identifiers. Each is a plain number with a name, so that a rank can not be passed where a
// sequence number is meant. Comparable and hashable; the number is `.value`.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace papilio {

template <class Tag, class Rep>
struct StrongId {
  using rep = Rep;
  Rep value{};

  constexpr StrongId() = default;
  constexpr explicit StrongId(Rep v) : value(v) {}
  constexpr auto operator<=>(const StrongId&) const = default;
};

// Fixed slot inside a group, 0 .. n-1; never renumbered.
using Rank = StrongId<struct RankTag, std::uint32_t>;
// Number of a collective inside a group; the same program order on all ranks, starting at 1.
using Seq = StrongId<struct SeqTag, std::uint64_t>;
// Global index of a chunk inside a round; the shard is derived (core/layout.hpp).
using ChunkIndex = StrongId<struct ChunkTag, std::uint32_t>;
// Numbered membership.
using ViewNumber = StrongId<struct ViewTag, std::uint32_t>;
// New for every process start; tells a restarted process in the same slot from the old one.
using Incarnation = StrongId<struct IncarnationTag, std::uint32_t>;
// Hash of a group's identity; equal on all members, different for every creation.
using GroupId = StrongId<struct GroupTag, std::uint32_t>;
// Hash of everything that must be equal for two contributions to be added (core/schema.hpp).
using SchemaHash = StrongId<struct SchemaTag, std::uint64_t>;
// 64 random bits that name one process for its lifetime.
using ProcessId = StrongId<struct ProcessTag, std::uint64_t>;

// Direct exchange is built for at most this many members (design: above it, hierarchies).
inline constexpr std::uint32_t kMaxRanks = 256;

}  // namespace papilio

template <class Tag, class Rep>
struct std::hash<papilio::StrongId<Tag, Rep>> {
  std::size_t operator()(const papilio::StrongId<Tag, Rep>& id) const noexcept {
    return std::hash<Rep>{}(id.value);
  }
};
