// Damage on the way, for tests (tests/chaos): a bit of a payload is flipped after its checksum was
// taken and before the lane gets it, so every lane carries it. Belongs to who drives the engine.
//
// PAPILIO_TEST_DAMAGE=phase:seq:copies, read once for each group. Of each contribution (phase
// "contributing") or result ("returning") of collective `seq`, the first `copies` that this rank
// sends to each receiver are damaged. Unset, which it is outside of tests, a message costs one
// comparison.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "core/ids.hpp"
#include "engine/block_pool.hpp"
#include "engine/test_hook.hpp"

namespace papilio::engine {

class TestDamage {
 public:
  // Throws std::invalid_argument for a text that it does not understand; nullptr: off.
  explicit TestDamage(const char* text);

  // That message is about to be given to the lane. A damaged payload is a copy: what it came from
  // may be the result that this rank keeps.
  void sends(TestPhase phase, Seq seq, ChunkIndex chunk, Rank to, BlockPool& pool,
             BlockRef& payload) {
    if (seq == seq_ && phase == phase_ && payload) [[unlikely]] {
      damage(chunk, to, pool, payload);
    }
  }

  bool on() const { return seq_ != Seq{0}; }
  std::uint64_t bytes() const { return bytes_; }  // damaged so far

 private:
  void damage(ChunkIndex chunk, Rank to, BlockPool& pool, BlockRef& payload);

  TestPhase phase_ = TestPhase::before;
  Seq seq_;  // 0: off; collectives count from 1
  std::uint32_t copies_ = 0;
  std::uint64_t bytes_ = 0;
  std::map<std::pair<Rank, ChunkIndex>, std::uint32_t> sent_;
};

}  // namespace papilio::engine
