// The device lane of one group whose ranks share a host: this rank's memory that the others read,
// and theirs. One per device; thread-safe. Rounds are in round.hpp.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <vector>

#include "core/contributor_set.hpp"
#include "core/reference.hpp"
#include "device_lane/board.hpp"
#include "device_lane/device_memory.hpp"
#include "device_lane/slab.hpp"

namespace papilio::device {

// The process that the memory belongs to ended before this one could map it.
struct OwnerGone : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Lane {
 public:
  using Clock = std::chrono::steady_clock;
  struct Config {
    Rank me;
    int device = 0;  // index in this process
    float weight = 1.0F;
    // Memory is used again at the latest so long after its round, whoever may still read it: a
    // reader that was stopped for longer finds that out (PeerBoard::valid).
    std::chrono::milliseconds patience{5000};
  };
  Lane(DeviceMemory& memory, Config config);  // throws std::runtime_error
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // One use of this rank's memory: elements, and room for the part that this rank averages.
  struct Use {
    std::uint64_t serial = 0;
    std::byte* input = nullptr;
    std::byte* part = nullptr;
  };
  // Waits while that memory is in use by earlier rounds. Throws what the device throws when there
  // is none left, and std::runtime_error after leave(). On the thread whose current device it is.
  Use reserve(std::uint64_t input_bytes, std::uint64_t part_bytes);
  Reference describe(const Use& use, bool nonfinite) const;
  // This rank does nothing more with it after these events, and has read what it wanted of that
  // round. A round without a number was decided by nobody: nobody reads it.
  void release(const Use& use, std::optional<Seq> seq, std::vector<std::shared_ptr<Event>> after);
  // Who took part in the latest round: whom reserve() waits for.
  void decided(Seq seq, const ContributorSet& contributors);
  // Wakes up reserve(), which fails from now on.
  void leave();

  struct Source {
    const std::byte* data = nullptr;
    const PeerBoard* board = nullptr;  // null: own memory
    Reference row;
    bool valid() const { return board == nullptr || board->valid(row.serial); }
  };
  // Where that rank's memory is in this process. Valid as long as the lane. Throws OwnerGone, or
  // std::runtime_error when it can not be read though the owner is alive.
  Source sourceOf(Rank rank, const Reference& row);
  OwnBoard& board() { return board_; }
  DeviceMemory& memory() { return memory_; }
  const Config& config() const { return config_; }

 private:
  struct Entry {
    Use use;
    Slab* slab = nullptr;
    bool over = false;
    std::optional<Seq> seq;
    std::vector<std::shared_ptr<Event>> after;
    Clock::time_point since;  // over
  };
  struct Peer {
    Nonce nonce{};
    std::unique_ptr<PeerBoard> board;
    std::map<Handle, std::byte*> memory;
  };

  bool endOldest();
  bool everybodyHasRead(Seq seq) const;
  std::optional<Use> tryReserve(std::uint64_t input_bytes, std::uint64_t part_bytes);

  DeviceMemory& memory_;
  const Config config_;
  OwnBoard board_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Slab>> slabs_;  // the last one is in use, those before until idle
  std::deque<Entry> entries_;                 // oldest first
  std::map<Rank, Peer> peers_;
  std::vector<Peer> replaced_;  // someone may hold a Source of it
  ContributorSet readers_;
  Seq latest_;
  std::uint64_t next_serial_ = 1;
  bool left_ = false;
};

}  // namespace papilio::device
