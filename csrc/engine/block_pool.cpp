#include "engine/block_pool.hpp"

#include <cstdlib>
#include <cstring>
#include <new>

namespace papilio::engine {

BlockPool::BlockPool(std::uint64_t staging_budget) : budget_(staging_budget) {}

BlockPool::~BlockPool() { releaseIdle(); }

void BlockPool::releaseIdle() {
  for (auto& blocks : free_) {
    for (auto* block : std::exchange(blocks, {})) destroy(block);
  }
}

detail::Block* BlockPool::create(std::uint8_t size_class) {
  const std::uint32_t bytes = kSizes[size_class];
  std::byte* data = arena_ != nullptr ? arena_->take(bytes) : nullptr;
  const bool in_arena = data != nullptr;
  if (!in_arena) data = static_cast<std::byte*>(std::aligned_alloc(64, bytes));
  if (data == nullptr) throw std::bad_alloc();
  held_ += bytes;
  return new detail::Block{this, data, bytes, 0, 0, size_class, false, in_arena};
}

void BlockPool::destroy(detail::Block* block) {
  held_ -= block->capacity;
  if (block->in_arena) {
    arena_->giveBack(block->data, block->capacity);
  } else {
    std::free(block->data);
  }
  delete block;
}

BlockRef BlockPool::tryAllocate(std::uint32_t size) {
  if (staged_ + size > budget_) return {};
  BlockRef out = allocate(size);
  out.block_->staged = true;
  staged_ += out.block_->capacity;
  return out;
}

BlockRef BlockPool::allocate(std::uint32_t size) {
  if (size > kLargest) throw std::bad_alloc();
  std::uint8_t size_class = 0;
  while (kSizes[size_class] < size) ++size_class;
  auto& idle = free_[size_class];
  detail::Block* block;
  if (!idle.empty()) {
    block = idle.back();
    idle.pop_back();
  } else {
    block = create(size_class);
  }
  block->size = size;
  in_use_ += block->capacity;
  return BlockRef(block);
}

BlockRef BlockPool::borrow(std::span<const std::byte> bytes, std::shared_ptr<const void> hold,
                           Time now) {
  if (free_borrowed_.empty()) free_borrowed_.push_back(std::make_unique<detail::Borrowed>());
  detail::Borrowed* block = free_borrowed_.back().release();
  free_borrowed_.pop_back();
  block->pool = this;
  block->data = const_cast<std::byte*>(bytes.data());
  block->size = static_cast<std::uint32_t>(bytes.size());
  block->size_class = kBorrowed;
  block->hold = std::move(hold);
  block->since = now;
  borrowed_.push_back(block);
  return BlockRef(block);
}

std::uint32_t BlockPool::bringHome(Time until) {
  std::uint32_t count = 0;
  for (; !borrowed_.empty() && borrowed_.front()->since <= until; ++count) {
    detail::Borrowed* block = borrowed_.front();
    block->home = allocate(block->size);
    std::memcpy(block->home.data(), block->data, block->size);
    block->data = block->home.data();
    borrowed_.pop_front();
    block->hold.reset();
  }
  return count;
}

void BlockPool::giveBack(detail::Borrowed* block) {
  if (!block->home) std::erase(borrowed_, block);
  block->home = {};
  block->hold.reset();
  free_borrowed_.emplace_back(block);
}

void BlockPool::giveBack(detail::Block* block) {
  if (block->size_class == kBorrowed) return giveBack(static_cast<detail::Borrowed*>(block));
  in_use_ -= block->capacity;
  if (block->staged) staged_ -= block->capacity;
  block->staged = false;
  if (held_ - in_use_ > kIdleLimit) {
    return destroy(block);
  }
  free_[block->size_class].push_back(block);
}

void BlockRef::release() {
  if (block_ != nullptr && --block_->references == 0) block_->pool->giveBack(block_);
  block_ = nullptr;
}

}  // namespace papilio::engine
