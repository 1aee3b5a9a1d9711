#include "core/layout.hpp"

#include <algorithm>

#include "core/hash.hpp"

namespace papilio {
namespace {

constexpr std::uint64_t kAlignBytes = 64;  // shards and chunks start on cache lines of the tensor

std::uint64_t roundUp(std::uint64_t value, std::uint64_t step) {
  return (value + step - 1) / step * step;
}

}  // namespace

std::uint32_t maxChunkBytes(std::uint32_t n) {
  if (n <= 16) return 256 * 1024;
  if (n <= 32) return 128 * 1024;
  return 64 * 1024;
}

Layout::Layout(std::uint64_t numel, std::size_t element_size, std::uint32_t n, Seq seq,
               const ContributorSet& absent, Codec codec)
    : numel_(numel),
      element_size_(element_size),
      codec_(codec),
      n_(n),
      absent_(absent),
      all_present_(absent.empty()) {
  const std::uint32_t parts = n - absent.count();
  small_ = totalPayload() <= kSmallBytes;
  if (small_) {
    small_owner_ = ownerOf(static_cast<std::uint32_t>(mix64(seq.value) % parts));
    chunk_elems_ = numel;
    chunk_count_ = numel == 0 ? 0 : 1;
    return;
  }
  const std::uint64_t align = std::max<std::uint64_t>(1, kAlignBytes / element_size);
  shard_elems_ = roundUp((numel + parts - 1) / parts, align);
  // Four chunks a shard, rounded up: a tiny fifth one would cost a message and a fifth credit.
  chunk_elems_ = std::clamp<std::uint64_t>(roundUp((shard_elems_ + 3) / 4, align),
                                           elementsWithin(codec, element_size, 64 * 1024),
                                           elementsWithin(codec, element_size, maxChunkBytes(n)));
  chunks_per_shard_ = static_cast<std::uint32_t>((shard_elems_ + chunk_elems_ - 1) / chunk_elems_);
  for (std::uint32_t r = 0; r < n; ++r) chunk_count_ += shardChunks(Rank{r}).count;
}

// The member that is the part-th of those present.
Rank Layout::ownerOf(std::uint32_t part) const {
  if (all_present_) return Rank{part};
  Rank rank{0};
  while (absent_.contains(rank) || part-- != 0) ++rank.value;
  return rank;
}

Rank Layout::owner(ChunkIndex chunk) const {
  return small_ ? small_owner_ : ownerOf(chunk.value / chunks_per_shard_);
}

ElementRange Layout::range(ChunkIndex chunk) const {
  if (small_) return {0, numel_};
  const std::uint64_t shard = chunk.value / chunks_per_shard_;
  const std::uint64_t inner = chunk.value % chunks_per_shard_;
  const std::uint64_t shard_start = std::min(shard * shard_elems_, numel_);
  const std::uint64_t shard_stop = std::min(shard_start + shard_elems_, numel_);
  const std::uint64_t start = std::min(shard_start + inner * chunk_elems_, shard_stop);
  return {start, std::min(start + chunk_elems_, shard_stop)};
}

Layout::Span Layout::shardChunks(Rank rank) const {
  if (small_) {
    return rank == small_owner_ ? Span{0, chunk_count_} : Span{0, 0};
  }
  std::uint32_t part = rank.value;
  if (!all_present_) {
    if (absent_.contains(rank)) return {0, 0};
    absent_.forEach([&](Rank gone) { part -= gone < rank ? 1 : 0; });
  }
  const std::uint64_t start = std::min(part * shard_elems_, numel_);
  const std::uint64_t stop = std::min(start + shard_elems_, numel_);
  const auto count = static_cast<std::uint32_t>((stop - start + chunk_elems_ - 1) / chunk_elems_);
  return {part * chunks_per_shard_, count};
}

}  // namespace papilio
