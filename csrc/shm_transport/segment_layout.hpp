// What lies in a process's shared segment. The owner alone writes it; peers of the same host map it
// read-only. Everything in it is read by a process that does not trust the writer: a value is
// loaded once, checked, and only then used.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/ids.hpp"
#include "core/wire.hpp"

namespace papilio::shm {

inline constexpr std::uint64_t kMagic = 0x334d48534c504150;  // "PAPLSHM3"
// More than a peer may have on its way, so that a ring is never full.
inline constexpr std::uint32_t kRingEntries = 128;
inline constexpr std::uint32_t kSlots = kMaxRanks;
// Address space for staged bytes; pages exist from their first use on.
inline constexpr std::uint64_t kArenaBytes = 1ULL << 30;
using Nonce = std::array<std::uint64_t, 2>;

// Each has a doorbell of its own: what wakes a thread that waits for a collective need not wake the
// progress thread too.
enum class Sleeper : std::uint8_t { nobody, progress, waiter };
inline constexpr std::uint64_t kSleepers = 4;
constexpr Sleeper sleeperOf(std::uint64_t sleep) { return static_cast<Sleeper>(sleep % kSleepers); }
// The next value of Segment::sleep after `sleep`.
constexpr std::uint64_t nextSleep(std::uint64_t sleep, Sleeper who) {
  return (sleep / kSleepers + 1) * kSleepers + static_cast<std::uint64_t>(who);
}

// Control messages among them; the rest is for the engine's window.
inline constexpr std::uint32_t kMostFrames = kRingEntries / 2;

// One message: its header, and where in the arena its payload is; or a control message, in the
// header's place.
struct Entry {
  std::uint16_t is_frame;
  std::uint16_t header_bytes;
  std::uint32_t payload_bytes;
  std::uint64_t payload_offset;  // from the start of the segment
  std::array<std::byte, kMaxEncodedHeader> header;
};

// The owner's side of one pair of processes.
struct Slot {
  // The owner waits for room, so the peer is to ring when it has taken something.
  std::atomic<std::uint32_t> wants_room;
  alignas(64) std::atomic<std::uint64_t> published;  // messages put into `ring` so far
  alignas(64) std::atomic<std::uint64_t> taken;      // messages of the peer's ring handled so far
  alignas(64) std::array<Entry, kRingEntries> ring;  // message k is in entry k % kRingEntries
};

struct Segment {
  std::uint64_t magic;
  std::uint64_t bytes;  // of the whole segment: another layout has another size
  Nonce nonce;          // the one in the owner's address
  // Its last two bits say who of the owner sleeps and must be woken by a doorbell (Sleeper); the
  // others count the changes.
  alignas(64) std::atomic<std::uint64_t> sleep;
  // For whom each slot is (ProcessId; zero: free). Set when the owner has mapped that process's
  // segment: from then on it reads the ring that the other side keeps for it.
  alignas(64) std::array<std::atomic<std::uint64_t>, kSlots> directory;
  alignas(4096) std::array<Slot, kSlots> slots;
};

inline constexpr std::uint64_t kArenaAlign = 256 * 1024;
inline constexpr std::uint64_t kArenaOffset =
    (sizeof(Segment) + kArenaAlign - 1) / kArenaAlign * kArenaAlign;
inline constexpr std::uint64_t kSegmentBytes = kArenaOffset + kArenaBytes;

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

}  // namespace papilio::shm
