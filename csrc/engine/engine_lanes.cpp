// What the two lanes report to the engine, and how messages get onto the data lane.
#include <algorithm>

#include "engine/engine_core.hpp"

namespace papilio::engine {

const char* name(DownCause cause) {
  switch (cause) {
    case DownCause::bye: return "said goodbye";
    case DownCause::process_exit: return "process ended";
    case DownCause::connection_closed: return "connection closed";
    case DownCause::connection_reset: return "connection reset";
    case DownCause::unreachable: return "unreachable";
    case DownCause::rejected: return "rejected";
  }
  return "unknown";
}

void EngineCore::onMessage(PeerId from, std::span<const std::byte> bytes,
                           std::span<const std::byte> payload) {
  PeerLink& peer = peers_[from.value];
  peer.last_seen = clock_.now();
  peer.goodput.received(clock_.now(), payload.size());
  count("bytes.received", static_cast<double>(payload.size()));
  DataHeader header;
  const ParseError error = parse(bytes, header);
  if (error != ParseError::none || header.payload_bytes != payload.size()) {
    count("rejected.header");
    return;
  }
  GroupRuntime* found = group(header.group);
  if (found == nullptr) {
    count("rejected.unknown_group");
    return;
  }
  const bool theirs = header.src.value < found->config().size &&
                      header.src != found->config().rank && found->peerOf(header.src) == from &&
                      header.incarnation == peer.hello.incarnation;
  if (!theirs) {
    count("rejected.identity");
    return;
  }
  found->message(header.src, header, payload);
}

void EngineCore::onSendDone(SendToken token, bool delivered) {
  Slot& slot = slots_[token];
  PeerLink& peer = peers_[slot.peer.value];
  --peer.in_flight;
  peer.in_flight_bytes -= slot.message.payload ? slot.message.payload.size() : 0;
  slot.message.payload = {};
  free_slots_.push_back(token);
  if (!delivered) count("sends_failed");
  hasWork(peer.id);
  for (const PeerId waiting : starved_) {
    peers_[waiting.value].starved = false;
    hasWork(waiting);
  }
  starved_.clear();
}

void EngineCore::onPeerUp(PeerId id, const PeerHello& hello) {
  PeerLink& peer = peers_[id.value];
  peer.state = PeerLink::State::up;
  peer.hello = hello;
  peer.last_seen = clock_.now();
  peer.lane_open = true;
  transport_->connect(id, hello.process, hello.data_address);
  for (const auto& [group, rank] : peer.groups) announce(*group, peer);
  connected(peer, true);
}

void EngineCore::onPeerDown(PeerId id, DownCause cause, const std::string& detail) {
  PeerLink& peer = peers_[id.value];
  const std::string evidence = std::string(name(cause)) + (detail.empty() ? "" : ", " + detail);
  if (cause == DownCause::bye) {
    peer.said_goodbye = true;
    // What it sent before is still on its way on the other lane.
    after(kLinger, [this, id] {
      transport_->disconnect(id, false);
      lost(peers_[id.value], fault::Reason::left, "it shut down in good order");
    });
    return;
  }
  const bool unreachable = cause == DownCause::unreachable || cause == DownCause::rejected;
  transport_->disconnect(id, cause == DownCause::process_exit);
  lost(peer, unreachable ? fault::Reason::unreachable : fault::Reason::dead, evidence);
}

void EngineCore::lost(PeerLink& peer, fault::Reason reason, const std::string& detail) {
  if (peer.state == PeerLink::State::down) return;
  peer.state = PeerLink::State::down;
  peer.lane_open = false;
  peer.down_reason = reason;
  peer.down_detail = detail;
  for (auto& [group, joins] : pending_joins_) joins.erase(peer.id);
  std::erase_if(pending_joins_, [](const auto& entry) { return entry.second.empty(); });
  for (std::size_t i = 0; i < peer.groups.size(); ++i) {
    const auto [group, rank] = peer.groups[i];
    group->gone(rank, reason, detail);
  }
  connected(peer, false);
}

void EngineCore::onPeerError(PeerId id, const std::string& why) {
  PeerLink& peer = peers_[id.value];
  peer.lane_open = false;
  if (peer.state != PeerLink::State::up) return;
  // The control lane usually knows the reason a moment later. After a goodbye it has a timer of its
  // own, which may have begun after this one.
  after(kLinger, [this, id, why] {
    if (peers_[id.value].said_goodbye) return;
    lost(peers_[id.value], fault::Reason::unreachable, "its data lane broke: " + why);
  });
}

void EngineCore::onFrame(PeerId from, std::span<const std::byte> frame) {
  // The lane holds what those that wait already are waiting for.
  const auto& frames = peers_[from.value].frames;
  for (int i = 0; i < 8 && frames.full(Way::connection) && transport_->progress() > 0; ++i) {
  }
  takeFrame(peers_[from.value], frame, Way::connection);
}

void EngineCore::onLaneFrame(PeerId from, std::span<const std::byte> frame) {
  takeFrame(peers_[from.value], frame, Way::lane);
}

void EngineCore::takeFrame(PeerLink& peer, std::span<const std::byte> frame, Way way) {
  peer.last_seen = clock_.now();
  const auto taken = peer.frames.take(
      frame, way, [&](std::span<const std::byte> message) { controlMessage(peer, message); });
  if (taken == FrameOrder::Taken::yes) return;
  count("rejected.control");
  if (taken == FrameOrder::Taken::malformed) return;
  after(Duration::zero(), [this, id = peer.id] {
    lost(peers_[id.value], fault::Reason::unreachable,
         "control messages that it counts have not come");
  });
}

void EngineCore::controlMessage(PeerLink& peer, std::span<const std::byte> bytes) {
  const PeerId from = peer.id;
  const auto message = parseControl(bytes);
  if (!message) {
    count("rejected.control");
    return;
  }
  if (const auto* join = std::get_if<msg::Join>(&message->body)) {
    gotJoin(peer, message->group, *join);
    return;
  }
  GroupRuntime* found = group(message->group);
  if (found == nullptr) {
    const auto pending = pending_joins_.find(message->group);
    if (pending != pending_joins_.end() && std::holds_alternative<msg::Leave>(message->body)) {
      peer.early_joins -= static_cast<std::uint32_t>(pending->second.erase(from));
      if (pending->second.empty()) pending_joins_.erase(pending);
    }
    return;
  }
  const auto rank = found->rankOf(from);
  if (!rank) return;
  if (std::holds_alternative<msg::Leave>(message->body)) {
    after(kLinger, [this, id = message->group, from, body = message->body] {
      GroupRuntime* left = group(id);
      const auto leaver = left != nullptr ? left->rankOf(from) : std::nullopt;
      if (leaver) left->control(*leaver, body);
    });
    return;
  }
  found->control(*rank, message->body);
}

void EngineCore::onPong(PeerId id, Duration rtt) {
  PeerLink& peer = peers_[id.value];
  peer.last_seen = clock_.now();
  peer.rtt = peer.rtt == Duration::zero() ? rtt : (peer.rtt * 7 + rtt) / 8;
  for (const auto& [group, rank] : peer.groups) group->answered(rank);
}

void EngineCore::ping(PeerId to) {
  if (to != kNoPeer) control_->ping(to);
}

void EngineCore::sendControl(PeerId to, const ControlMessage& message) {
  if (to == kNoPeer) return;
  PeerLink& peer = peers_[to.value];
  const auto bytes = encode(message);
  if (peer.lane_open && transport_->sendFrame(to, peer.frames.frame(bytes, Way::lane))) {
    count("control.frames_by_lane");
    peer.frames.sent(Way::lane);
  } else if (control_->send(to, peer.frames.frame(bytes, Way::connection))) {
    count("control.frames_by_connection");
    peer.frames.sent(Way::connection);
  }
}

BlockRef EngineCore::borrow(std::span<const std::byte> payload) {
  auto hold = transport_->hold(payload);
  if (!hold) return {};
  count("payloads_held");
  return pool_.borrow(payload, std::move(hold), clock_.now());
}

void EngineCore::hasWork(PeerId to) {
  if (to == kNoPeer) return;
  PeerLink& peer = peers_[to.value];
  if (peer.dirty || peer.starved || !peer.lane_open) return;
  peer.dirty = true;
  dirty_.push_back(to);
}

void EngineCore::pumpDirty() {
  // pump() may make peers dirty again; those wait for the next step, after progress.
  std::vector<PeerId> now;
  now.swap(dirty_);
  for (const PeerId id : now) {
    peers_[id.value].dirty = false;
    pump(peers_[id.value]);
  }
}

// Peers that take nothing (frozen ones) must not hold all the staging memory.
std::uint64_t EngineCore::windowOf(const PeerLink& peer) const {
  return std::min<std::uint64_t>(transport_->window(peer.id),
                                 kStagingBudget / std::max<std::size_t>(peers_.size(), 1));
}

void EngineCore::pump(PeerLink& peer) {
  const std::uint64_t window = peer.lane_open ? windowOf(peer) : 0;
  while (peer.lane_open && peer.in_flight < kWindowMessages && peer.in_flight_bytes < window) {
    if (!sendOne(peer)) return;
  }
}

bool EngineCore::sendOne(PeerLink& peer) {
  bool starved = false;
  for (std::size_t tried = 0; tried < peer.groups.size(); ++tried) {
    const auto [group, rank] = peer.groups[peer.next_group % peer.groups.size()];
    ++peer.next_group;
    Outgoing message;
    if (group->produce(rank, message, starved)) {
      dispatch(peer, std::move(message));
      group->posted();
      return true;
    }
  }
  if (starved) {
    peer.starved = true;
    starved_.push_back(peer.id);
  }
  return false;
}

void EngineCore::dispatch(PeerLink& peer, Outgoing message) {
  if (free_slots_.empty()) {
    free_slots_.push_back(slots_.size());
    slots_.emplace_back();
  }
  const SendToken token = free_slots_.back();
  free_slots_.pop_back();
  Slot& slot = slots_[token];
  slot.message = std::move(message);
  slot.peer = peer.id;
  const auto payload =
      slot.message.payload ? slot.message.payload.view() : std::span<const std::byte>{};
  ++peer.in_flight;
  peer.in_flight_bytes += payload.size();
  count("bytes.sent", static_cast<double>(payload.size()));
  if (transport_->send(peer.id, slot.message.header.view(), payload, token)) return;
  // Refused: the lane is broken and says so by onPeerError.
  --peer.in_flight;
  peer.in_flight_bytes -= payload.size();
  slot.message.payload = {};
  free_slots_.push_back(token);
  peer.lane_open = false;
}

}  // namespace papilio::engine
