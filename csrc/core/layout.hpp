// How a tensor of `numel` elements is cut: one shard per rank, each shard into chunks. A pure
// function of (numel, element size, codec, sequence number, members of the view): nobody guesses
// who owns a chunk.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/codec.hpp"
#include "core/contributor_set.hpp"
#include "core/ids.hpp"

namespace papilio {

// Half-open range of elements.
struct ElementRange {
  std::uint64_t start = 0;
  std::uint64_t stop = 0;
  std::uint64_t size() const { return stop - start; }
  bool operator==(const ElementRange&) const = default;
};

// Largest payload of one message in a group of n ranks, bytes (protocol I3, ucx 12: one message is
// one transport segment; smaller with more peers so that memory per peer stays bounded).
std::uint32_t maxChunkBytes(std::uint32_t n);

// Contributions to one shard that a rank may have unanswered at the shard's reducer, over all
// rounds. A reducer that keeps so many open chunks of a rank gets no more from it. Fewer keep the
// working set small; no difference in the median was measured between 4 and 8.
inline constexpr std::uint32_t kCreditsPerShard = 4;

class Layout {
 public:
  // Tensors whose payload is at most this many bytes are one chunk with one reducer, hash(seq) mod
  // n.
  static constexpr std::uint64_t kSmallBytes = 64 * 1024;

  Layout() = default;
  // `absent`: slots of the n without a process in this view; they own nothing. Not all of them.
  Layout(std::uint64_t numel, std::size_t element_size, std::uint32_t n, Seq seq,
         const ContributorSet& absent = {}, Codec codec = Codec::raw);

  std::uint32_t chunkCount() const { return chunk_count_; }
  // Rank whose shard the chunk belongs to; it is the chunk's reducer while it is there.
  Rank owner(ChunkIndex chunk) const;
  ElementRange range(ChunkIndex chunk) const;
  // Of the chunk in the tensor, and as it travels.
  std::uint64_t bytes(ChunkIndex chunk) const { return range(chunk).size() * element_size_; }
  std::uint64_t payload(ChunkIndex chunk) const {
    return payloadBytes(codec_, element_size_, range(chunk).size());
  }
  // Of all chunks together, but for what padding adds.
  std::uint64_t totalPayload() const { return payloadBytes(codec_, element_size_, numel_); }
  std::uint64_t numel() const { return numel_; }
  std::size_t elementSize() const { return element_size_; }
  std::uint32_t groupSize() const { return n_; }
  // Chunks of the shard of `rank`: [first, first + count). Shards at the end may be shorter or
  // empty.
  struct Span {
    std::uint32_t first = 0;
    std::uint32_t count = 0;
  };
  Span shardChunks(Rank rank) const;

 private:
  Rank ownerOf(std::uint32_t part) const;

  std::uint64_t numel_ = 0;
  std::size_t element_size_ = 1;
  Codec codec_ = Codec::raw;
  std::uint32_t n_ = 1;
  ContributorSet absent_;
  bool all_present_ = true;
  Rank small_owner_{};
  bool small_ = true;
  std::uint64_t shard_elems_ = 0;
  std::uint64_t chunk_elems_ = 0;
  std::uint32_t chunks_per_shard_ = 0;
  std::uint32_t chunk_count_ = 0;
};

}  // namespace papilio
