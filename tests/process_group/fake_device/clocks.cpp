#include "process_group/fake_device/clocks.hpp"

namespace fake {

void Memory::allocated(const void* data, std::size_t bytes) {
  allocations_[static_cast<const std::byte*>(data)] = {bytes, {}};
}

void Memory::check(const Allocation& allocation, const Use& use, const Clock& clock) {
  for (const auto& past : allocation.past) {
    const bool apart = use.end <= past.use.begin || past.use.end <= use.begin;
    if (apart || (!use.writes && !past.use.writes)) continue;
    if (clock.of(past.use.actor) >= past.step) continue;
    races_.push_back(use.what + " (actor " + std::to_string(use.actor) + ") does not come after " +
                     past.use.what + " (actor " + std::to_string(past.use.actor) + ")");
  }
}

void Memory::used(const void* data, std::size_t bytes, bool writes, const std::string& what,
                  std::size_t actor, const Clock& clock) {
  const auto* at = static_cast<const std::byte*>(data);
  auto found = allocations_.upper_bound(at);
  if (bytes == 0 || found == allocations_.begin()) return;
  --found;
  auto& [start, allocation] = *found;
  const auto begin = static_cast<std::size_t>(at - start);
  if (begin >= allocation.bytes) return;
  const Use use{what, actor, begin, begin + bytes, writes};
  ++uses_;
  check(allocation, use, clock);
  std::erase_if(allocation.past, [&](const Past& past) {  // what follows sees it through this one
    return writes && use.begin <= past.use.begin && past.use.end <= use.end;
  });
  allocation.past.push_back({use, clock.of(actor)});
}

void Memory::freed(const void* data, std::size_t actor, const Clock& clock, std::size_t owner) {
  const auto found = allocations_.find(static_cast<const std::byte*>(data));
  if (found == allocations_.end()) return;
  std::erase_if(found->second.past, [&](const Past& past) { return past.use.actor == owner; });
  check(found->second, {"a release", actor, 0, found->second.bytes, true}, clock);
  allocations_.erase(found);
}

}  // namespace fake
