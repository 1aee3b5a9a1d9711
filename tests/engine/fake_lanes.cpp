// The lanes of one fake process: everything that reports to the engine runs on its own thread.
#include <algorithm>
#include <stdexcept>

#include "engine/fake_node.hpp"

namespace papilio::engine::testing {

FakeTransport::FakeTransport(FakeNetwork& network, TransportObserver& observer, ProcessId self)
    : network_(network), observer_(observer), node_(std::make_shared<FakeNode>()) {
  std::lock_guard lock(network_.mutex_);
  if (!network_.fail_open_.empty()) {
    throw std::runtime_error(std::exchange(network_.fail_open_, {}));
  }
  node_->index = network_.nodes_.size();
  node_->process = self;
  network_.nodes_.push_back(node_);
}

std::optional<std::size_t> FakeTransport::nodeBehind(PeerId peer) const {
  for (const auto& [index, id] : node_->peers) {
    if (id == peer) return index;
  }
  return std::nullopt;
}

void FakeTransport::disconnect(PeerId peer, bool) {
  std::lock_guard lock(network_.mutex_);
  if (const auto to = nodeBehind(peer)) node_->closed.insert(*to);
}

bool FakeTransport::send(PeerId peer, std::span<const std::byte> header,
                         std::span<const std::byte> payload, SendToken token) {
  std::lock_guard lock(network_.mutex_);
  const auto to = nodeBehind(peer);
  if (!to || node_->closed.contains(*to) || node_->dead) return false;
  ++node_->in_flight;
  network_.held_.push_back({node_->index, *to, header, payload, token});
  network_.flush();
  return true;
}

bool FakeTransport::sendFrame(PeerId peer, std::span<const std::byte> frame) {
  std::lock_guard lock(network_.mutex_);
  const auto to = nodeBehind(peer);
  if (!to || node_->dead || node_->closed.contains(*to) || !node_->up.contains(*to)) return false;
  std::uniform_real_distribution<double> unit(0, 1);
  if (unit(network_.chance_) >= network_.lane_share_) return false;
  FakeNode& other = *network_.nodes_[*to];
  const auto self = other.peers.find(node_->index);
  if (self == other.peers.end() || other.dead || other.gone) return false;
  other.data.push_back(
      [id = self->second, bytes = std::vector<std::byte>(frame.begin(), frame.end())](
          TransportObserver& observer) { observer.onLaneFrame(id, bytes); });
  other.changed.notify_all();
  return true;
}

std::shared_ptr<const void> FakeTransport::hold(std::span<const std::byte> payload) {
  const auto bytes = node_->reported;
  if (!bytes || bytes->data() != payload.data()) return nullptr;
  return {bytes->data(),
          [bytes](const void*) { std::fill(bytes->begin(), bytes->end(), std::byte{0xee}); }};
}

std::uint32_t FakeTransport::progress() {
  std::uint32_t done = 0;
  for (; done < 64; ++done) {
    std::function<void(TransportObserver&)> event;
    {
      std::unique_lock lock(network_.mutex_);
      node_->changed.wait(lock, [&] { return !node_->frozen; });
      if (std::exchange(node_->throws, false)) throw std::runtime_error("the lane blew up");
      if (node_->data.empty()) return done;
      event = std::move(node_->data.front());
      node_->data.pop_front();
    }
    event(observer_);
  }
  return done;
}

bool FakeTransport::arm() {
  std::lock_guard lock(network_.mutex_);
  return node_->data.empty() && !node_->refuses_arm;
}

bool FakeTransport::shutdown(std::uint32_t limit_ms) {
  {
    std::lock_guard lock(network_.mutex_);
    node_->dead = true;
    network_.flush();  // what is still held fails now
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(limit_ms);
  while (std::chrono::steady_clock::now() < end) {
    progress();
    std::lock_guard lock(network_.mutex_);
    if (node_->in_flight == 0 && node_->data.empty()) return true;
  }
  return false;
}

FakeControl::FakeControl(FakeNetwork& network, ControlObserver& observer, PeerHello self,
                         Wheel& wheel)
    : network_(network), observer_(observer), wheel_(wheel) {
  std::lock_guard lock(network_.mutex_);
  for (const auto& node : network_.nodes_) {
    if (node->process == self.process) node_ = node;
  }
  node_->hello = std::move(self);
  node_->hello.address = node_->record();
}

void FakeControl::connect(PeerId peer, const std::string& record, Duration) {
  std::lock_guard lock(network_.mutex_);
  if (record.rfind("fake ", 0) != 0) throw std::invalid_argument("no record: " + record);
  node_->asked[peer] = record;
  for (const auto& other : network_.nodes_) {
    if (other->record() != record) continue;
    node_->peers[other->index] = peer;
    if (other->dead || other->gone) {
      node_->control.push_back([peer](ControlObserver& observer) {
        observer.onPeerDown(peer, DownCause::unreachable, "connection refused");
      });
    } else if (other->peers.contains(node_->index)) {
      network_.meet(*node_, *other);
    }
  }
}

bool FakeControl::send(PeerId peer, std::span<const std::byte> frame) {
  std::lock_guard lock(network_.mutex_);
  for (const auto& [index, id] : node_->peers) {
    if (id != peer) continue;
    if (!node_->up.contains(index) || node_->dead) return false;
    network_.held_frames_.push_back({node_->index, index, {frame.begin(), frame.end()}});
    network_.flushControl();
    return true;
  }
  return false;
}

void FakeControl::ping(PeerId peer) {
  std::lock_guard lock(network_.mutex_);
  for (const auto& [index, id] : node_->peers) {
    if (id != peer || !node_->up.contains(index) || node_->dead) continue;
    FakeNode& other = *network_.nodes_[index];
    other.control.push_back([&network = network_, peer, me = node_](ControlObserver&) {
      std::lock_guard answering(network.mutex_);
      if (me->dead || me->gone) return;
      me->control.push_back([peer](ControlObserver& observer) { observer.onPong(peer, 1us); });
      me->changed.notify_all();
    });
    other.changed.notify_all();
    return;
  }
}

void FakeControl::shutdown(std::uint32_t) {
  std::lock_guard lock(network_.mutex_);
  node_->gone = true;
  for (const auto& other : network_.nodes_) {
    if (node_->up.contains(other->index)) {
      network_.peerGone(*other, node_->index, DownCause::bye, "");
    }
  }
  node_->control.clear();
}

void FakeControl::sleep(Duration max, bool with_data) {
  if (max > Duration::zero()) wheel_.unlock();
  {
    std::unique_lock lock(network_.mutex_);
    if (max > Duration::zero()) ++node_->waits;
    node_->changed.wait_for(lock, max, [&] {
      return node_->woken || !node_->control.empty() ||
             (with_data && (node_->wolf || !node_->data.empty()));
    });
    node_->changed.wait(lock, [&] { return !node_->frozen; });
    node_->woken = false;
  }
  if (max > Duration::zero()) wheel_.lock();
  for (int i = 0; i < 64; ++i) {
    std::function<void(ControlObserver&)> event;
    {
      std::lock_guard lock(network_.mutex_);
      if (node_->control.empty()) return;
      event = std::move(node_->control.front());
      node_->control.pop_front();
    }
    event(observer_);
  }
}

void FakeControl::wake() {
  std::lock_guard lock(network_.mutex_);
  node_->woken = true;
  node_->changed.notify_all();
}

}  // namespace papilio::engine::testing
