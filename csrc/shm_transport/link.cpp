#include "shm_transport/link.hpp"

#include <cstring>
#include <utility>

namespace papilio::shm {

Link::Link(PeerId peer, ProcessId self, const Address& address, OwnSegment& own, std::uint32_t slot)
    : peer_(peer),
      self_(self),
      own_(own),
      slot_(slot),
      segment_(std::make_shared<PeerSegment>(address.pid, address.segment_fd, address.nonce)),
      bell_(address.pid, address.bell_fd),
      waiter_bell_(address.pid, address.waiter_bell_fd),
      ours_(&own.control().slots[slot]) {
  ours_->published.store(0, std::memory_order_relaxed);
  ours_->taken.store(0, std::memory_order_relaxed);
}

bool Link::open() {
  if (theirs_ != nullptr) return true;
  if (!segment_ || !broken_.empty()) return false;
  const auto& control = segment_->control();
  for (std::uint32_t i = 0; i < kSlots; ++i) {
    if (control.directory[i].load() != self_.value) continue;
    theirs_ = &control.slots[i];
    return true;
  }
  return false;
}

void Link::stopReading() {
  theirs_ = nullptr;
  segment_.reset();
}

bool Link::publish(std::span<const std::byte> header, std::span<const std::byte> payload,
                   SendToken token) {
  if (published_ - released_ == kRingEntries || header.size() > kMaxEncodedHeader) return false;
  const std::uint64_t offset = payload.empty() ? 0 : own_.offsetOf(payload);
  if (offset == 0 && !payload.empty()) return false;
  Entry& entry = put(header, {token, static_cast<std::uint32_t>(payload.size())});
  entry.payload_bytes = static_cast<std::uint32_t>(payload.size());
  entry.payload_offset = offset;
  show();
  return true;
}

bool Link::publishFrame(std::span<const std::byte> frame) {
  if (pending_frames_ == kMostFrames || frame.size() > kMaxEncodedHeader) return false;
  if (published_ - released_ == kRingEntries) return false;
  put(frame, {.is_frame = true});
  ++pending_frames_;
  show();
  return true;
}

Entry& Link::put(std::span<const std::byte> header, Pending pending) {
  Entry& entry = ours_->ring[published_ % kRingEntries];
  entry.is_frame = pending.is_frame ? 1 : 0;
  entry.header_bytes = static_cast<std::uint16_t>(header.size());
  entry.payload_bytes = 0;
  entry.payload_offset = 0;
  std::memcpy(entry.header.data(), header.data(), header.size());
  pending_[published_ % kRingEntries] = pending;
  pending_bytes_ += pending.bytes;
  return entry;
}

void Link::show() {
  ours_->published.store(++published_);
  wake();
}

// What a sleeper waits for, its `sleep` and its `wants_room` are stored and loaded sequentially
// consistent: either the peer sees what was just stored, or this sees that it sleeps.
void Link::wake() {
  if (!segment_) return;
  const auto sleep = segment_->control().sleep.load();
  const Sleeper who = sleeperOf(sleep);
  if (who == Sleeper::nobody || sleep == woken_at_) return;
  woken_at_ = sleep;
  (who == Sleeper::waiter ? waiter_bell_ : bell_).ring();
}

bool Link::takeDone(SendToken& token) {
  if (theirs_ == nullptr || released_ == published_) return false;
  const auto taken = theirs_->taken.load(std::memory_order_acquire);
  if (taken < released_ || taken > published_) {
    broken_ = "it claims to have taken messages that were not sent";
    return false;
  }
  while (released_ != taken) {
    if (pop(token)) return true;
  }
  return false;
}

bool Link::takePending(SendToken& token) {
  while (released_ != published_) {
    if (pop(token)) return true;
  }
  return false;
}

// False: it was a control message, which nobody waits for.
bool Link::pop(SendToken& token) {
  const Pending& pending = pending_[released_ % kRingEntries];
  pending_bytes_ -= pending.bytes;
  ++released_;
  if (pending.is_frame) --pending_frames_;
  token = pending.token;
  return !pending.is_frame;
}

bool Link::next(Entry& entry, std::span<const std::byte>& payload) {
  if (theirs_ == nullptr || !broken_.empty()) return false;
  const auto published = theirs_->published.load(std::memory_order_acquire);
  if (published == read_) return false;
  if (published < read_ || published - taken_ > kRingEntries) {
    broken_ = "its ring jumped";
    return false;
  }
  std::memcpy(&entry, &theirs_->ring[read_ % kRingEntries], sizeof(entry));
  if (entry.header_bytes > entry.header.size() ||
      !segment_->payload(entry.payload_offset, entry.payload_bytes, payload)) {
    broken_ = "a message points outside its segment";
    return false;
  }
  return true;
}

// Keeps the memory mapped too, should the link go first.
class Link::Hold {
 public:
  Hold(std::weak_ptr<Link> link, std::shared_ptr<PeerSegment> memory, std::uint64_t index)
      : link_(std::move(link)), memory_(std::move(memory)), index_(index) {}
  ~Hold() {
    if (const auto link = link_.lock()) link->letGo(index_);
  }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

 private:
  std::weak_ptr<Link> link_;
  std::shared_ptr<PeerSegment> memory_;
  std::uint64_t index_;
};

std::shared_ptr<const void> Link::hold() {
  auto out = std::make_shared<const Hold>(weak_from_this(), segment_, read_);
  held_.set(read_ % kRingEntries);
  return out;
}

void Link::handled() {
  ++read_;
  sayTaken();
}

void Link::letGo(std::uint64_t index) {
  held_.reset(index % kRingEntries);
  sayTaken();
  settle();
}

void Link::sayTaken() {
  while (taken_ != read_ && !held_[taken_ % kRingEntries]) ++taken_;
  ours_->taken.store(taken_);
}

void Link::settle() {
  if (theirs_ != nullptr && theirs_->wants_room.load() != 0) wake();
}

bool Link::readyBeforeSleep() {
  const bool wants = pending_bytes_ >= kRoomBytes || published_ - released_ >= kRoomMessages;
  ours_->wants_room.store(wants ? 1 : 0);
  if (!broken_.empty()) return false;
  if (theirs_ == nullptr) return segment_ && open();
  return theirs_->published.load() != read_ ||
         (released_ != published_ && theirs_->taken.load() != released_);
}

void Link::forgetPages() {
  if (segment_) segment_->forgetPages();
}

}  // namespace papilio::shm
