// What a group may be told; the same names, defaults and ranges as papilio.Options (api.md 2).
#pragma once

#include <cstdint>
#include <string>

#include "core/codec.hpp"
#include "core/time.hpp"

namespace papilio::fault {

enum class Mode : std::uint8_t { bounded, strict };
enum class Fallback : std::uint8_t { local, zero };
// Who must agree on a new view: most of the members that are not known to be dead, or most of all.
enum class Quorum : std::uint8_t { live, majority };
enum class NonFinite : std::uint8_t { drop, propagate };

struct GroupOptions {
  Mode mode = Mode::bounded;
  // A round waits at most this long (active time) for a member behind the median member.
  Duration patience = 5s;
  Fallback fallback = Fallback::local;
  // Soft lateness within a window of 10 rounds before a member is blacklisted.
  std::uint32_t slow_strikes = 3;
  Duration blacklist_base = 30s;
  // Fewer live members than this (self included): QuorumLost.
  std::uint32_t min_peers = 1;
  Quorum quorum = Quorum::live;
  // This rank's weight in the mean.
  float weight = 1.0F;
  // Hash of the user's fingerprint; 0 for none.
  std::uint64_t fingerprint = 0;
  NonFinite nonfinite = NonFinite::drop;
  Codec codec = Codec::raw;
  bool payload_crc = true;
  // Default timeout of a collective (c10d's group timeout).
  Duration timeout = std::chrono::minutes(30);
  // However regular the arrivals are, nobody is late sooner; never more than patience.
  Duration arrival_floor = 1s;
  // The members share a host, and what they average is their part in a round of a larger group
  // (host_share.hpp): sums are not divided, and one with NaN or Inf is left out while another one
  // has none.
  bool of_host = false;
  // Results of finished rounds kept for late members, bytes per group.
  std::uint64_t retention_bytes = 32ULL << 20;
};

}  // namespace papilio::fault
