// Connections before they belong to a peer: greeting, hello, parking.
#include <algorithm>

#include "control/asio_control_plane.hpp"
#include "core/control_message.hpp"

namespace papilio::control {

void AsioControlPlane::begin(ConnectionPtr connection, Role role, std::optional<PeerId> dialed) {
  const PendingId id = ++last_pending_;
  Pending& pending =
      pending_
          .try_emplace(
              id,
              Pending{id, connection, Timer(io_), role, dialed, makeNonce(), {}, false, false, {}})
          .first->second;
  expireAt(pending, config_.handshake_timeout, "the handshake took too long");
  connection->start(
      [this, id](Kind kind, std::span<const std::byte> body) {
        if (Pending* found = find(id)) onPendingFrame(*found, kind, body);
      },
      [this, id](std::error_code error, bool broken_rules) {
        Pending* found = find(id);
        if (found == nullptr) return;
        reject(*found, counters_.rejected_garbage,
               broken_rules ? "it sent no valid frame" : "connection ended: " + error.message());
      });
  connection->send(Kind::greeting, greeting(pending.nonce));
}

void AsioControlPlane::expireAt(Pending& pending, Duration limit, const char* why) {
  pending.timer.expires_after(limit);
  pending.timer.async_wait(wheel_.guarding([this, id = pending.id, why](std::error_code error) {
    Pending* found = find(id);
    if (error || found == nullptr) return;
    // Set anew after this handler was queued?
    if (found->timer.expiry() > std::chrono::steady_clock::now()) return;
    reject(*found, counters_.rejected_timeout, why);
  }));
}

AsioControlPlane::Pending* AsioControlPlane::find(PendingId id) {
  const auto it = pending_.find(id);
  return it == pending_.end() ? nullptr : &it->second;
}

AsioControlPlane::Pending* AsioControlPlane::parked(ProcessId process) {
  for (auto& [id, pending] : pending_) {
    if (pending.authenticated && pending.hello.process == process) return &pending;
  }
  return nullptr;
}

void AsioControlPlane::onPendingFrame(Pending& pending, Kind kind,
                                      std::span<const std::byte> body) {
  if (kind == Kind::greeting && !pending.greeted) {
    gotGreeting(pending, body);
  } else if (kind == Kind::hello && pending.greeted && !pending.authenticated) {
    gotHello(pending, body);
  } else {
    reject(pending, counters_.rejected_garbage, "it broke the order of the handshake");
  }
}

void AsioControlPlane::gotGreeting(Pending& pending, std::span<const std::byte> body) {
  const auto theirs = parseGreeting(body);
  if (!theirs) {
    reject(pending, counters_.rejected_garbage, "its greeting is not ours");
    return;
  }
  pending.greeted = true;
  const bool dialer = pending.role == Role::dialer;
  pending.session = dialer ? Session{pending.nonce, *theirs} : Session{*theirs, pending.nonce};
  const auto hello = sealHello(config_.self, pending.role, pending.session, config_.secret);
  pending.connection->send(Kind::hello, hello);
}

void AsioControlPlane::gotHello(Pending& pending, std::span<const std::byte> body) {
  const Role theirs = pending.role == Role::dialer ? Role::listener : Role::dialer;
  const auto error = openHello(body, theirs, pending.session, config_.secret, pending.hello);
  if (error == HelloError::secret) {
    const auto dialed = std::exchange(pending.dialed, std::nullopt);
    reject(pending, counters_.rejected_secret, "wrong job secret");
    if (!dialed) return;
    down(peers_.at(*dialed), DownCause::rejected,
         "wrong job secret; set the same PAPILIO_SECRET on all ranks");
    return;
  }
  if (error != HelloError::none) {
    reject(pending, counters_.rejected_garbage, "its hello is malformed");
    return;
  }
  Peer* peer = byProcess(pending.hello.process);
  if (pending.dialed && (peer == nullptr || peer->id != *pending.dialed)) {
    reject(pending, counters_.rejected_garbage, "another process answers at that address");
    return;
  }
  if (peer == nullptr) {
    park(pending);
    return;
  }
  if (peer->state != Peer::State::connecting) {
    reject(pending, counters_.rejected_duplicate, "that process is connected already");
    return;
  }
  auto connection = std::move(pending.connection);
  auto hello = std::move(pending.hello);
  pending_.erase(pending.id);
  adopt(*peer, std::move(connection), std::move(hello));
}

// Known to the job, not yet to this process: it waits for connect(). Its side is up already and may
// send; that stays unread until then.
void AsioControlPlane::park(Pending& pending) {
  if (Pending* older = parked(pending.hello.process)) {
    reject(*older, counters_.rejected_duplicate, "that process called again");
  }
  const auto waiting = std::count_if(pending_.begin(), pending_.end(),
                                     [](const auto& entry) { return entry.second.authenticated; });
  if (static_cast<std::size_t>(waiting) >= kMaxParked) {
    reject(pending, counters_.rejected_garbage, "too many processes wait for their group");
    return;
  }
  pending.authenticated = true;
  pending.connection->hold();
  expireAt(pending, config_.parking_time, "no group here wants it");
}

void AsioControlPlane::takeParked(Peer& peer) {
  Pending* pending = parked(peer.process);
  if (pending == nullptr || closing_ || peer.state != Peer::State::connecting) return;
  auto connection = std::move(pending->connection);
  auto hello = std::move(pending->hello);
  pending_.erase(pending->id);
  adopt(peer, std::move(connection), std::move(hello));
}

void AsioControlPlane::reject(Pending& pending, std::uint64_t& counter, const std::string& why) {
  const auto dialed = pending.dialed;
  pending.connection->close();
  pending_.erase(pending.id);
  if (closing_) return;
  if (dialed) {
    redial(peers_.at(*dialed), why);
    return;
  }
  ++counter;
  note("refused a connection: " + why);
}

// Callers that said nothing yet give way, the oldest first; those in the middle of a handshake do
// not.
bool AsioControlPlane::makeRoom() {
  std::size_t strangers = 0;
  Pending* silent = nullptr;
  for (auto& [id, pending] : pending_) {
    if (pending.role != Role::listener || pending.authenticated) continue;
    ++strangers;
    if (silent == nullptr && !pending.greeted) silent = &pending;
  }
  if (strangers < kMaxPending) return true;
  if (silent == nullptr) return false;
  reject(*silent, counters_.rejected_timeout, "it was silent while others called");
  return true;
}

}  // namespace papilio::control
