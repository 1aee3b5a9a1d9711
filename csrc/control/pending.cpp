// Connections before they belong to a peer: greeting, hello, parking.
#include "control/asio_control_plane.hpp"
#include "core/control_message.hpp"

namespace papilio::control {

void AsioControlPlane::begin(ConnectionPtr connection, Role role, std::optional<PeerId> dialed) {
  pending_.push_front(
      Pending{connection, Timer(io_), role, dialed, makeNonce(), {}, false, false, {}});
  const auto pending = pending_.begin();
  pending->timer.expires_after(config_.handshake_timeout);
  pending->timer.async_wait([this, pending](std::error_code error) {
    if (!error) reject(pending, counters_.rejected_timeout, "the handshake took too long");
  });
  connection->start(
      [this, pending](Kind kind, std::span<const std::byte> body) {
        onPendingFrame(pending, kind, body);
      },
      [this, pending](std::error_code error, bool broken_rules) {
        auto& counter =
            pending->authenticated ? counters_.rejected_timeout : counters_.rejected_garbage;
        reject(pending, counter,
               broken_rules ? "it sent no valid frame" : "connection ended: " + error.message());
      });
  connection->send(Kind::greeting, greeting(pending->nonce));
}

void AsioControlPlane::onPendingFrame(PendingList::iterator pending, Kind kind,
                                      std::span<const std::byte> body) {
  if (kind == Kind::greeting && !pending->greeted) {
    gotGreeting(pending, body);
  } else if (kind == Kind::hello && pending->greeted && !pending->authenticated) {
    gotHello(pending, body);
  } else {
    reject(pending, counters_.rejected_garbage, "it broke the order of the handshake");
  }
}

void AsioControlPlane::gotGreeting(PendingList::iterator pending, std::span<const std::byte> body) {
  const auto theirs = parseGreeting(body);
  if (!theirs) {
    reject(pending, counters_.rejected_garbage, "its greeting is not ours");
    return;
  }
  pending->greeted = true;
  const bool dialer = pending->role == Role::dialer;
  pending->session = dialer ? Session{pending->nonce, *theirs} : Session{*theirs, pending->nonce};
  const auto hello = sealHello(config_.self, pending->role, pending->session, config_.secret);
  pending->connection->send(Kind::hello, hello);
}

void AsioControlPlane::gotHello(PendingList::iterator pending, std::span<const std::byte> body) {
  const Role theirs = pending->role == Role::dialer ? Role::listener : Role::dialer;
  const auto error = openHello(body, theirs, pending->session, config_.secret, pending->hello);
  if (error == HelloError::secret) {
    if (pending->dialed) {
      Peer& peer = peers_.at(*pending->dialed);
      pending->dialed.reset();
      reject(pending, counters_.rejected_secret, "wrong job secret");
      down(peer, DownCause::rejected, "wrong job secret; set the same PAPILIO_SECRET on all ranks");
      return;
    }
    reject(pending, counters_.rejected_secret, "wrong job secret");
    return;
  }
  if (error != HelloError::none) {
    reject(pending, counters_.rejected_garbage, "its hello is malformed");
    return;
  }
  Peer* peer = byProcess(pending->hello.process);
  if (pending->dialed && (peer == nullptr || peer->id != *pending->dialed)) {
    reject(pending, counters_.rejected_garbage, "another process answers at that address");
    return;
  }
  if (peer != nullptr && peer->state != Peer::State::connecting) {
    reject(pending, counters_.rejected_duplicate, "that process is connected already");
    return;
  }
  if (peer == nullptr) {  // known to the job, not yet to this process
    for (const auto& other : pending_) {
      if (&other != &*pending && other.authenticated &&
          other.hello.process == pending->hello.process) {
        reject(pending, counters_.rejected_duplicate, "that process is parked already");
        return;
      }
    }
    pending->authenticated = true;
    pending->timer.expires_after(config_.parking_time);
    pending->timer.async_wait([this, pending](std::error_code waited) {
      if (!waited) reject(pending, counters_.rejected_timeout, "no group here wants it");
    });
    return;
  }
  auto connection = std::move(pending->connection);
  auto hello = std::move(pending->hello);
  pending_.erase(pending);
  adopt(*peer, std::move(connection), std::move(hello));
}

void AsioControlPlane::reject(PendingList::iterator pending, std::uint64_t& counter,
                              const std::string& why) {
  const auto dialed = pending->dialed;
  pending->connection->close();
  pending_.erase(pending);
  if (closing_) return;
  if (dialed) {
    redial(peers_.at(*dialed), why);
    return;
  }
  ++counter;
  note("refused a connection: " + why);
}

std::size_t AsioControlPlane::unauthenticated() const {
  std::size_t count = 0;
  for (const auto& pending : pending_) count += pending.authenticated ? 0 : 1;
  return count;
}

}  // namespace papilio::control
