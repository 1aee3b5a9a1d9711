// One pair of processes: the ring towards the peer and the ring from it.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "shm_transport/doorbell.hpp"
#include "shm_transport/segment.hpp"
#include "shm_transport/shm_address.hpp"

namespace papilio::shm {

using engine::PeerId;
using engine::SendToken;

class Link : public std::enable_shared_from_this<Link> {
 public:
  // Maps the peer's segment; `slot` of the own segment is for this pair. Throws
  // std::runtime_error that says why it can not.
  Link(PeerId peer, ProcessId self, const Address& address, OwnSegment& own, std::uint32_t slot);

  PeerId peer() const { return peer_; }
  std::uint32_t slot() const { return slot_; }
  // Both sides have mapped each other. Looks again when they had not.
  bool open();
  // The peer can not be read any more; sends that it may still read stay pending.
  void stopReading();
  bool reading() const { return theirs_ != nullptr; }

  // Puts a message into the ring. False: full, or the payload is not in the own segment.
  bool publish(std::span<const std::byte> header, std::span<const std::byte> payload,
               SendToken token);
  // The same with a control message. False: no room, or it is too large.
  bool publishFrame(std::span<const std::byte> frame);
  // Oldest pending send that the peer has taken, if any.
  bool takeDone(SendToken& token);
  // Oldest pending send, taken or not.
  bool takePending(SendToken& token);
  // A message that has arrived; `entry` is a copy. Call handled() when it has been handled.
  bool next(Entry& entry, std::span<const std::byte>& payload);
  void handled();
  // In between: the message counts as taken only when what is returned is gone.
  std::shared_ptr<const void> hold();
  // After a batch: wakes a peer that waits for room.
  void settle();
  // Anything to do? Says in the segment whether this side waits for room.
  bool readyBeforeSleep();
  void wake();
  std::uint64_t mappedBytes() const { return segment_ ? segment_->mappedBytes() : 0; }
  void forgetPages();
  // Empty, or what is impossible about the peer's segment.
  const std::string& broken() const { return broken_; }

 private:
  static constexpr std::uint64_t kRoomBytes = 128 * 1024;
  static constexpr std::uint64_t kRoomMessages = 16;
  struct Pending {
    SendToken token = 0;
    std::uint32_t bytes = 0;
    bool is_frame = false;
  };
  Entry& put(std::span<const std::byte> header, Pending pending);
  void show();
  bool pop(SendToken& token);
  class Hold;
  void letGo(std::uint64_t index);
  void sayTaken();

  PeerId peer_;
  ProcessId self_;
  OwnSegment& own_;
  std::uint32_t slot_;
  std::shared_ptr<PeerSegment> segment_;
  PeerBell bell_;
  PeerBell waiter_bell_;
  Slot* ours_;
  const Slot* theirs_ = nullptr;
  std::array<Pending, kRingEntries> pending_;
  std::uint64_t published_ = 0;  // ours
  std::uint64_t released_ = 0;   // ours, handed back to the engine
  std::uint64_t read_ = 0;       // theirs
  std::uint64_t taken_ = 0;      // theirs, all before are read and not held
  std::bitset<kRingEntries> held_;
  std::uint64_t pending_bytes_ = 0;
  std::uint32_t pending_frames_ = 0;
  std::uint64_t woken_at_ = 0;  // the sleep of the peer that was ended last
  std::string broken_;
};

}  // namespace papilio::shm
