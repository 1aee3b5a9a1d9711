#include "engine/block_pool.hpp"

#include <cstdlib>
#include <new>

namespace papilio::engine {

BlockPool::BlockPool(std::uint64_t staging_budget) : budget_(staging_budget) {}

BlockPool::~BlockPool() {
  for (auto& blocks : free_) {
    for (auto* block : blocks) {
      std::free(block->data);
      delete block;
    }
  }
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
    auto* data = static_cast<std::byte*>(std::aligned_alloc(64, kSizes[size_class]));
    if (data == nullptr) throw std::bad_alloc();
    block = new detail::Block{this, data, kSizes[size_class], 0, 0, size_class, false};
    held_ += block->capacity;
  }
  block->size = size;
  in_use_ += block->capacity;
  return BlockRef(block);
}

void BlockPool::giveBack(detail::Block* block) {
  in_use_ -= block->capacity;
  if (block->staged) staged_ -= block->capacity;
  block->staged = false;
  if (held_ - in_use_ > kIdleLimit) {
    held_ -= block->capacity;
    std::free(block->data);
    delete block;
    return;
  }
  free_[block->size_class].push_back(block);
}

void BlockRef::release() {
  if (block_ != nullptr && --block_->references == 0) block_->pool->giveBack(block_);
  block_ = nullptr;
}

}  // namespace papilio::engine
