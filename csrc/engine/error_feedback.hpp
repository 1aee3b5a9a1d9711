// What int8 rounded off of this rank's contributions, added to the next ones (protocol F4): without
// it, what is smaller than a step of its block's scale never reaches the others.
//
// The residual belongs to a tensor: its address, shape and chunk. DDP's buckets keep theirs from
// step to step. What a reused address brings by mistake is harmless: a residual never counts for
// more than one step of the block it is added to.
//
// A contribution is staged any number of times (another reducer, damage on the way), each time with
// the same bytes: the residual moves on once, when a result says that this rank is in it. A rank
// that was left out, or filled the chunk with its local values, keeps the residual that it had.
//
// Kept in the int8 form itself: 1.02 bytes per element that other ranks reduce. At most kMostBytes
// of them per group; a tensor that does not fit goes without, unless another has not been seen for
// kStaleRounds rounds. A new view is a new group: nothing survives a new layout. One thread.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "core/codec.hpp"
#include "core/ids.hpp"
#include "core/round_shape.hpp"

namespace papilio::engine {

class ErrorFeedback {
 public:
  static constexpr std::uint64_t kMostBytes = 256ULL << 20;
  static constexpr std::uint64_t kStaleRounds = 1024;

  // Which codecs round off so much that it matters.
  static bool applies(Codec form) { return form == Codec::int8; }

  // A chunk of a tensor that takes part in round `seq`. `data`: of the chunk.
  struct Source {
    const std::byte* tensor = nullptr;
    const RoundShape* shape = nullptr;
    ChunkIndex chunk;
    const std::byte* data = nullptr;
    std::uint64_t numel = 0;
    Seq seq;
  };

  // encode() of the chunk and its residual.
  void encode(const Source& source, std::byte* out);
  // The chunk, which still holds this rank's values, counted as encoded above.
  void counted(const Source& source);

  std::uint64_t bytes() const { return bytes_; }

 private:
  struct Tensor {
    const std::byte* address;
    std::uint64_t numel;
    DType dtype;
    ReduceOp op;
    auto operator<=>(const Tensor&) const = default;
  };
  struct Residual {
    std::map<ChunkIndex, std::vector<std::byte>> chunks;
    std::uint64_t bytes = 0;
    Seq last;  // round
  };
  static Tensor tensorOf(const Source& source);
  const std::vector<std::byte>* find(const Source& source);
  std::vector<std::byte>* room(const Source& source);
  void dropStale(Seq now);

  std::map<Tensor, Residual> residuals_;
  std::uint64_t bytes_ = 0;
};

}  // namespace papilio::engine
