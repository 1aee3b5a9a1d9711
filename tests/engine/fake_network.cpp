#include "engine/fake_network.hpp"

#include "engine/fake_node.hpp"
#include "engine/frame_order.hpp"

namespace papilio::engine::testing {

LaneFactory FakeNetwork::lanes() {
  LaneFactory out;
  out.transport = [this](TransportObserver& observer, ProcessId self) {
    return std::make_unique<FakeTransport>(*this, observer, self);
  };
  out.control = [this](ControlObserver& observer, PeerHello self, Wheel& wheel) {
    return std::make_unique<FakeControl>(*this, observer, std::move(self), wheel);
  };
  return out;
}

// Both asked for each other: they are up.
void FakeNetwork::meet(FakeNode& a, FakeNode& b) {
  const auto tell = [](FakeNode& node, const FakeNode& other) {
    node.up.insert(other.index);
    node.control.push_back([peer = node.peers.at(other.index), hello = other.hello](
                               ControlObserver& observer) { observer.onPeerUp(peer, hello); });
    node.changed.notify_all();
  };
  tell(a, b);
  tell(b, a);
}

void FakeNetwork::peerGone(FakeNode& node, std::size_t gone, DownCause cause,
                           const std::string& detail) {
  const auto it = node.peers.find(gone);
  if (it == node.peers.end() || node.dead) return;
  node.up.erase(gone);
  node.control.push_back([peer = it->second, cause, detail](ControlObserver& observer) {
    observer.onPeerDown(peer, cause, detail);
  });
  node.changed.notify_all();
}

void FakeNetwork::kill(std::size_t index) {
  std::lock_guard lock(mutex_);
  FakeNode& dead = *nodes_.at(index);
  dead.dead = true;
  dead.frozen = false;
  dead.changed.notify_all();
  flush();
  for (const auto& node : nodes_) {
    if (node->index == index) continue;
    node->closed.insert(index);
    peerGone(*node, index, DownCause::process_exit, "exit seen by the test");
  }
}

void FakeNetwork::freeze(std::size_t node) {
  std::lock_guard lock(mutex_);
  nodes_.at(node)->frozen = true;
}

void FakeNetwork::thaw(std::size_t node) {
  std::lock_guard lock(mutex_);
  nodes_.at(node)->frozen = false;
  nodes_.at(node)->changed.notify_all();
  flush();
}

void FakeNetwork::stall(std::size_t from, std::size_t to, bool on) {
  std::lock_guard lock(mutex_);
  if (on) {
    stalled_.insert({from, to});
  } else {
    stalled_.erase({from, to});
  }
  flush();
}

void FakeNetwork::holdControl(std::size_t from, std::size_t to, bool on) {
  std::lock_guard lock(mutex_);
  if (on) {
    held_control_.insert({from, to});
  } else {
    held_control_.erase({from, to});
  }
  flushControl();
}

void FakeNetwork::framesByLane(double share) {
  std::lock_guard lock(mutex_);
  lane_share_ = share;
}

void FakeNetwork::breakLane(std::size_t index, std::size_t peer) {
  std::lock_guard lock(mutex_);
  FakeNode& node = *nodes_.at(index);
  node.closed.insert(peer);
  node.data.push_back([id = node.peers.at(peer)](TransportObserver& observer) {
    observer.onPeerError(id, "the test cut the cable");
  });
  node.changed.notify_all();
  flush();
}

bool FakeNetwork::passes(const Held& message) const {
  const FakeNode& from = *nodes_[message.from];
  const FakeNode& to = *nodes_[message.to];
  if (from.dead || to.dead || from.closed.contains(message.to)) return true;  // fails at once
  return !to.frozen && !stalled_.contains({message.from, message.to});
}

void FakeNetwork::deliver(const Held& message) {
  FakeNode& from = *nodes_[message.from];
  FakeNode& to = *nodes_[message.to];
  const bool fails = from.dead || to.dead || from.closed.contains(message.to);
  --from.in_flight;
  from.data.push_back([token = message.token, fails](TransportObserver& observer) {
    observer.onSendDone(token, !fails);
  });
  from.changed.notify_all();
  const auto sender = to.peers.find(message.from);
  if (fails || sender == to.peers.end()) return;
  // Read only now: memory that was reused too early shows.
  std::vector<std::byte> header(message.header.begin(), message.header.end());
  std::vector<std::byte> payload(message.payload.begin(), message.payload.end());
  const int times = filter_ ? filter_({message.from, message.to, header, payload}) : 1;
  for (int i = 0; i < times; ++i) {
    to.data.push_back(
        [id = sender->second, header, node = &to,
         bytes = std::make_shared<std::vector<std::byte>>(payload)](TransportObserver& observer) {
          node->reported = bytes;
          observer.onMessage(id, header, *bytes);
          node->reported.reset();
        });
  }
  to.changed.notify_all();
}

void FakeNetwork::flush() {
  std::set<std::pair<std::size_t, std::size_t>> blocked;  // order of one direction is kept
  std::deque<Held> rest;
  for (const auto& message : held_) {
    const std::pair direction{message.from, message.to};
    if (!blocked.contains(direction) && passes(message)) {
      deliver(message);
    } else {
      blocked.insert(direction);
      rest.push_back(message);
    }
  }
  held_ = std::move(rest);
}

void FakeNetwork::flushControl() {
  std::deque<HeldFrame> rest;
  for (auto& item : held_frames_) {
    FakeNode& to = *nodes_[item.to];
    if (held_control_.contains({item.from, item.to})) {
      rest.push_back(std::move(item));
    } else if (!to.dead && !to.gone && to.up.contains(item.from)) {
      to.control.push_back([id = to.peers.at(item.from), frame = std::move(item.frame)](
                               ControlObserver& observer) { observer.onFrame(id, frame); });
      to.changed.notify_all();
    }
  }
  held_frames_ = std::move(rest);
}

void FakeNetwork::onData(std::function<int(Message)> filter) {
  std::lock_guard lock(mutex_);
  filter_ = std::move(filter);
}

void FakeNetwork::inject(std::size_t from, std::size_t to, std::vector<std::byte> header,
                         std::vector<std::byte> payload) {
  std::lock_guard lock(mutex_);
  FakeNode& node = *nodes_.at(to);
  node.data.push_back([id = node.peers.at(from), header = std::move(header),
                       payload = std::move(payload)](TransportObserver& observer) {
    observer.onMessage(id, header, payload);
  });
  node.changed.notify_all();
}

void FakeNetwork::injectControl(std::size_t from, std::size_t to, std::vector<std::byte> frame) {
  frame.insert(frame.begin(), FrameOrder::kPrefixBytes, std::byte{0});
  std::lock_guard lock(mutex_);
  FakeNode& node = *nodes_.at(to);
  node.control.push_back([id = node.peers.at(from), frame = std::move(frame)](
                             ControlObserver& observer) { observer.onFrame(id, frame); });
  node.changed.notify_all();
}

void FakeNetwork::throwInProgress(std::size_t node) {
  std::lock_guard lock(mutex_);
  nodes_.at(node)->throws = true;
  nodes_.at(node)->woken = true;
  nodes_.at(node)->changed.notify_all();
}

void FakeNetwork::cryWolf(std::size_t node, bool on) {
  std::lock_guard lock(mutex_);
  nodes_.at(node)->wolf = on;
  nodes_.at(node)->changed.notify_all();
}

void FakeNetwork::refuseArm(std::size_t node, bool on) {
  std::lock_guard lock(mutex_);
  nodes_.at(node)->refuses_arm = on;
}

void FakeNetwork::failNextOpen(const std::string& why) {
  std::lock_guard lock(mutex_);
  fail_open_ = why;
}

std::size_t FakeNetwork::inFlight() const {
  std::lock_guard lock(mutex_);
  std::size_t out = 0;
  for (const auto& node : nodes_) out += node->dead ? 0 : node->in_flight;
  return out;
}

std::uint64_t FakeNetwork::waits(std::size_t node) const {
  std::lock_guard lock(mutex_);
  return nodes_.at(node)->waits;
}

}  // namespace papilio::engine::testing
