#include "device_lane/lane.hpp"

#include <unistd.h>

#include <algorithm>
#include <limits>
#include <string>
#include <thread>

namespace papilio::device {

namespace {

// How often reserve() looks at the boards of others.
constexpr std::chrono::microseconds kLook{100};

std::uint64_t aligned(std::uint64_t bytes) {
  return (bytes + Slab::kAlign - 1) / Slab::kAlign * Slab::kAlign;
}

// A dead process has no descriptors.
bool gone(const Reference& owner) {
  const auto path = "/proc/" + std::to_string(owner.pid) + "/fd/" + std::to_string(owner.fd);
  return access(path.c_str(), F_OK) != 0;
}

}  // namespace

Lane::Lane(DeviceMemory& memory, Config config) : memory_(memory), config_(config) {}

Lane::~Lane() {
  board_.endUses(std::numeric_limits<std::uint64_t>::max());
  for (auto& slab : slabs_) Slab::giveBack(std::move(slab));
  std::vector<std::byte*> foreign;
  const auto collect = [&](const Peer& peer) {
    for (const auto& [handle, data] : peer.memory) foreign.push_back(data);
  };
  for (const auto& [rank, peer] : peers_) collect(peer);
  for (const auto& peer : replaced_) collect(peer);
  if (foreign.empty()) return;
  // By a thread of its own: closing may wait for the device, and the device for who is here now.
  std::thread([&memory = memory_, foreign = std::move(foreign)] {
    for (auto* data : foreign) memory.close(data);
  }).detach();
}

bool Lane::everybodyHasRead(Seq seq) const {
  bool all = true;
  readers_.forEach([&](Rank rank) {
    const auto peer = peers_.find(rank);
    if (peer != peers_.end() && peer->second.board) all = all && peer->second.board->hasRead(seq);
  });
  return all;
}

// False: the oldest use is not over, or may be read by somebody who takes part.
bool Lane::endOldest() {
  const Entry& oldest = entries_.front();
  if (!oldest.over || !std::all_of(oldest.after.begin(), oldest.after.end(),
                                   [](const auto& event) { return event->done(); })) {
    return false;
  }
  const bool read = !oldest.seq || everybodyHasRead(*oldest.seq);
  if (!read && Clock::now() - oldest.since < config_.patience) return false;
  board_.endUses(oldest.use.serial + 1);
  oldest.slab->releaseOldest();
  entries_.pop_front();
  std::erase_if(slabs_, [&](auto& slab) {
    if (slab == slabs_.back() || !slab->idle()) return false;
    Slab::giveBack(std::move(slab));
    return true;
  });
  return true;
}

std::optional<Lane::Use> Lane::tryReserve(std::uint64_t input_bytes, std::uint64_t part_bytes) {
  Slab& slab = *slabs_.back();
  const auto offset = slab.reserve(aligned(input_bytes) + part_bytes);
  if (!offset) return std::nullopt;
  Use use{next_serial_++, slab.data() + *offset, slab.data() + *offset + aligned(input_bytes)};
  entries_.push_back({use, &slab, false, std::nullopt, {}, {}});
  return use;
}

Lane::Use Lane::reserve(std::uint64_t input_bytes, std::uint64_t part_bytes) {
  std::unique_lock lock(mutex_);
  // Two rounds at a time, so that one is prepared while the other runs.
  const auto wanted = 2 * (aligned(input_bytes) + aligned(part_bytes));
  if (slabs_.empty() || slabs_.back()->bytes() < wanted) {
    slabs_.push_back(Slab::take(memory_, config_.device, wanted));
  }
  while (!left_) {
    if (const auto use = tryReserve(input_bytes, part_bytes)) return *use;
    if (!endOldest()) changed_.wait_for(lock, kLook);
  }
  throw std::runtime_error("the group has ended");
}

Reference Lane::describe(const Use& use, bool nonfinite) const {
  Reference out;
  out.flags = Reference::present | (nonfinite ? Reference::nonfinite : 0u);
  out.weight = config_.weight;
  board_.describe(out);
  std::lock_guard lock(mutex_);
  const auto entry = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const auto& one) { return one.use.serial == use.serial; });
  const Slab& slab = *entry->slab;
  out.handle = slab.handle();
  out.size = slab.bytes();
  out.input = static_cast<std::uint64_t>(use.input - slab.data());
  out.part = static_cast<std::uint64_t>(use.part - slab.data());
  out.serial = use.serial;
  return out;
}

void Lane::release(const Use& use, std::optional<Seq> seq,
                   std::vector<std::shared_ptr<Event>> after) {
  if (seq) board_.hasRead(*seq);
  std::lock_guard lock(mutex_);
  for (auto& entry : entries_) {
    if (entry.use.serial != use.serial) continue;
    entry.over = true;
    entry.seq = seq;
    entry.after = std::move(after);
    entry.since = Clock::now();
    break;
  }
  changed_.notify_all();
}

void Lane::decided(Seq seq, const ContributorSet& contributors) {
  std::lock_guard lock(mutex_);
  if (seq < latest_) return;
  latest_ = seq;
  readers_ = contributors;
  readers_.erase(config_.me);
  changed_.notify_all();
}

void Lane::leave() {
  std::lock_guard lock(mutex_);
  left_ = true;
  changed_.notify_all();
}

Lane::Source Lane::sourceOf(Rank rank, const Reference& row) {
  std::lock_guard lock(mutex_);
  Peer& peer = peers_[rank];
  try {
    if (!peer.board || peer.nonce != row.nonce) {
      auto board = std::make_unique<PeerBoard>(row);
      if (peer.board) replaced_.push_back(std::move(peer));
      peer = Peer{row.nonce, std::move(board), {}};
    }
    auto& data = peer.memory[row.handle];
    if (data == nullptr) data = memory_.open(row.handle, row.size);
    return {data, peer.board.get(), row};
  } catch (const std::runtime_error& error) {
    peer.memory.erase(row.handle);
    const auto text = "the memory of rank " + std::to_string(rank.value) + " (process " +
                      std::to_string(row.pid) + ") can not be read: " + error.what();
    if (gone(row)) throw OwnerGone(text);
    throw std::runtime_error(text);
  }
}

}  // namespace papilio::device
