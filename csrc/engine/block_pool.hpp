// Staging memory: every byte that the network reads or writes lives here, never in a user's tensor.
// Blocks come in three sizes, are counted by reference and go back to a free list. One thread only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "core/time.hpp"
#include "engine/transport.hpp"

namespace papilio::engine {

class BlockPool;

namespace detail {
struct Block {
  BlockPool* pool = nullptr;
  std::byte* data = nullptr;
  std::uint32_t capacity = 0;
  std::uint32_t size = 0;
  std::uint32_t references = 0;
  std::uint8_t size_class = 0;
  bool staged = false;    // counts against the staging budget
  bool in_arena = false;  // of the lane; otherwise from the heap
};
}  // namespace detail

// Shared handle of one block; the last one gives it back. Empty handles are falsy.
class BlockRef {
 public:
  BlockRef() = default;
  explicit BlockRef(detail::Block* block) : block_(block) {
    if (block_ != nullptr) ++block_->references;
  }
  BlockRef(const BlockRef& other) : BlockRef(other.block_) {}
  BlockRef(BlockRef&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  BlockRef& operator=(BlockRef other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~BlockRef() { release(); }

  explicit operator bool() const { return block_ != nullptr; }
  std::byte* data() { return block_->data; }
  const std::byte* data() const { return block_->data; }
  std::uint32_t size() const { return block_->size; }
  std::span<const std::byte> view() const { return {block_->data, block_->size}; }

 private:
  friend class BlockPool;
  void release();
  detail::Block* block_ = nullptr;
};

namespace detail {
struct Borrowed : Block {
  std::shared_ptr<const void> hold;
  BlockRef home;  // where its bytes are since they came home
  Time since{};
};
}  // namespace detail

class BlockPool {
 public:
  // `staging_budget`: bytes that tryAllocate() may have in use at once.
  // What allocate() gives out does not count, or kept results would stop the sending that frees
  // them.
  explicit BlockPool(std::uint64_t staging_budget);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  // Takes new blocks from the lane's arena from now on; nullptr: from the heap. Before an arena
  // goes away, all blocks must have come back and releaseIdle() been called.
  void useArena(Arena* arena) { arena_ = arena; }
  void releaseIdle();

  // Bytes that lie in a lane's memory (Transport::hold), as a block. Whoever has it only reads.
  BlockRef borrow(std::span<const std::byte> bytes, std::shared_ptr<const void> hold, Time now);
  // Copies what was borrowed until then, and gives it back to the lane; returns how many blocks.
  std::uint32_t bringHome(Time until);
  Time oldestBorrowed() const { return borrowed_.empty() ? kNever : borrowed_.front()->since; }

  // Empty when the budget is spent: the caller tries again when a block came back.
  BlockRef tryAllocate(std::uint32_t size);
  // For what the protocol already bounds (kept contributions within credits, results). Throws
  // std::bad_alloc.
  BlockRef allocate(std::uint32_t size);

  std::uint64_t bytesInUse() const { return in_use_; }
  std::uint64_t bytesHeld() const { return held_; }

  static constexpr std::uint32_t kLargest = 256 * 1024;

 private:
  friend class BlockRef;
  void giveBack(detail::Block* block);
  void giveBack(detail::Borrowed* block);
  detail::Block* create(std::uint8_t size_class);
  void destroy(detail::Block* block);

  // Idle blocks above this are freed: a burst does not stay resident.
  static constexpr std::uint64_t kIdleLimit = 24ULL << 20;
  static constexpr std::array<std::uint32_t, 3> kSizes{4 * 1024, 64 * 1024, kLargest};
  static constexpr std::uint8_t kBorrowed = kSizes.size();  // in place of an index of them

  std::uint64_t budget_;
  Arena* arena_ = nullptr;
  std::uint64_t in_use_ = 0;
  std::uint64_t staged_ = 0;
  std::uint64_t held_ = 0;
  std::array<std::vector<detail::Block*>, kSizes.size()> free_;
  std::deque<detail::Borrowed*> borrowed_;  // not come home, oldest first
  std::vector<std::unique_ptr<detail::Borrowed>> free_borrowed_;
};

}  // namespace papilio::engine
