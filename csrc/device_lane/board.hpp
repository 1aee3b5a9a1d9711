// What a rank tells the others of its host about its memory, on a page that only it writes: which
// of it is still what it was, which parts are averaged, and what this rank has read. Readers look;
// nobody waits for anybody here. The page of a process that was killed stays as it was.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "core/ids.hpp"
#include "core/reference.hpp"
#include "shm_transport/sealed_memory.hpp"

namespace papilio::device {

using Nonce = std::array<std::uint64_t, 2>;

// Rounds that can be told apart at the same time. Who is later than that finds its memory gone.
inline constexpr std::uint64_t kRoundsOnBoard = 256;

struct BoardPage {
  std::uint64_t magic;
  Nonce nonce;
  // Uses of memory below this serial are over: it may be written again.
  std::atomic<std::uint64_t> valid_from;
  // By round number % kRoundsOnBoard.
  std::array<std::atomic<std::uint64_t>, kRoundsOnBoard> done;  // partWord() of the averaged part
  std::array<std::atomic<std::uint64_t>, kRoundsOnBoard>
      read;  // the number: nothing is read any more
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

// Round and contributors, so that a part that was made of others' data is not taken.
std::uint64_t partWord(Seq seq, std::uint64_t members);

class OwnBoard {
 public:
  OwnBoard();  // throws std::runtime_error
  // Fills in what others need to find this.
  void describe(Reference& out) const;
  void endUses(std::uint64_t below);
  void partDone(Seq seq, std::uint64_t members);
  void hasRead(Seq seq);

 private:
  BoardPage& page() const { return *reinterpret_cast<BoardPage*>(memory_.data()); }
  const shm::SealedMemory memory_{sizeof(BoardPage)};
};

class PeerBoard {
 public:
  explicit PeerBoard(const Reference& owner);  // throws std::runtime_error
  // What was read from that use of the owner's memory before this call is what was written there.
  bool valid(std::uint64_t serial) const;
  bool partDone(Seq seq, std::uint64_t members) const;
  // It reads nothing of that round, or of one kRoundsOnBoard later.
  bool hasRead(Seq seq) const;

 private:
  const BoardPage& page() const { return *reinterpret_cast<const BoardPage*>(view_.data()); }
  const shm::SealedView view_;
};

}  // namespace papilio::device
