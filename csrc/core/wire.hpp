// Header of every message on the data lane: 64 bytes, little-endian, its last word a CRC32C of the
// other 60 and of the extension. CONTRIB and RESULT carry an extension behind it; its size follows
// from type and group size alone. Nothing here is trusted before parse() said yes (protocol A2,
// A3).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "core/contributor_set.hpp"
#include "core/ids.hpp"
#include "core/round_shape.hpp"

namespace papilio {

enum class MessageType : std::uint8_t {
  contribution = 1,  // x_i of one chunk, to its reducer
  result = 2,        // averaged chunk, from a reducer or a holder
  block = 3,         // piece of a strict collective
  piece = 4,         // piece of a point-to-point message; `seq` is the sender's name for it
};

// Flags of a RESULT.
inline constexpr std::uint16_t kLateNotCounted = 1;  // your contribution came too late to count
inline constexpr std::uint16_t kFetched = 2;         // answer to FETCH
inline constexpr std::uint16_t kNonFiniteDropped =
    4;                                              // contributions with NaN or Inf are not in it
inline constexpr std::uint16_t kOthersSettled = 8;  // not in it: some who had the chunk already
inline constexpr std::uint16_t kOthersMissed =
    16;  // not in it: some who missed their deadline in it
inline constexpr std::uint16_t kCorruptDropped =
    512;  // contributions that arrived damaged each time are not in it
inline constexpr std::uint16_t kRelayed = 32;  // passed on by the leader of the receiver's host
// Flags of a CONTRIB.
inline constexpr std::uint16_t kOfHost = 64;    // stands for the ranks in `contributors`
inline constexpr std::uint16_t kListens = 128;  // no data, but the result is wanted
inline constexpr std::uint16_t kReducersEnded =
    256;  // the processes of all that were to reduce it before the receiver have ended

struct DataHeader {
  MessageType type = MessageType::contribution;
  std::uint16_t flags = 0;
  GroupId group;
  Incarnation incarnation;  // of the sender's process
  ViewNumber view;
  Rank src;
  Seq seq;
  SchemaHash schema;
  ChunkIndex chunk;
  // Ring distance of the reducer from the chunk's owner: 0 the owner, k its k-th successor.
  // For a block: the phase of the strict collective.
  std::uint16_t attempt = 0;
  std::uint32_t payload_bytes = 0;
  std::uint32_t payload_crc = 0;  // 0 and unchecked with integrity="header"
  float weight = 1.0F;            // of the contribution: the sum of those it stands for

  // Extension of a contribution: lets a reducer open the round before its own rank enters.
  RoundShape shape;
  // Extension of a result: who is in it, the sum of their weights, who is to blame that the others
  // are not, as far as the reducer knows, and which of the others train another model. The first
  // two follow the shape of a contribution with kOfHost: whose data it is, and whose had NaN or
  // Inf.
  ContributorSet contributors;
  ContributorSet blamed;
  ContributorSet mismatched;
  ContributorSet nonfinite;  // of a result with kNonFiniteDropped: whose
  ContributorSet corrupt;    // of a result with kCorruptDropped: whose
  double weight_sum = 0.0;

  bool operator==(const DataHeader&) const = default;
};

inline constexpr std::size_t kHeaderBytes = 64;
inline constexpr std::size_t kResultExtensionBytes = 8 + 3 * kMaxRanks / 8;
inline constexpr std::size_t kHostExtensionBytes = 2 * kMaxRanks / 8;
inline constexpr std::size_t kDroppedBytes = kMaxRanks / 8;
inline constexpr std::size_t kMaxEncodedHeader =
    kHeaderBytes + kResultExtensionBytes + 2 * kDroppedBytes;

// Fixed storage for one encoded header; lives as long as the send that uses it.
struct EncodedHeader {
  std::array<std::byte, kMaxEncodedHeader> bytes;
  std::uint32_t size = 0;
  std::span<const std::byte> view() const { return {bytes.data(), size}; }
};

void encode(const DataHeader& header, EncodedHeader& out);

enum class ParseError : std::uint8_t { none, length, magic, version, crc, type, range };
const char* name(ParseError error);

// Fills `out` and returns none, or says what is wrong. `range`: a field outside its legal values.
ParseError parse(std::span<const std::byte> bytes, DataHeader& out);

}  // namespace papilio
