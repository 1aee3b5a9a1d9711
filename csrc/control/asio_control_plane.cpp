#include "control/asio_control_plane.hpp"

#include <netinet/tcp.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "control/record.hpp"
#include "core/control_message.hpp"
#include "core/hash.hpp"

namespace papilio::control {

namespace {

constexpr std::size_t kMaxDataFrame = kMaxControlBytes;

void setKeepalive(int fd, bool same_host) {
  const auto set = [&](int option, int value) {
    setsockopt(fd, IPPROTO_TCP, option, &value, sizeof value);
  };
  set(TCP_KEEPIDLE, 5);
  set(TCP_KEEPINTVL, 1);
  set(TCP_KEEPCNT, 5);
  // Another host that vanished leaves our pings unacknowledged. A stopped process does not: its
  // kernel goes on acknowledging.
  if (!same_host) set(TCP_USER_TIMEOUT, 15'000);
}

}  // namespace

AsioControlPlane::AsioControlPlane(Config config, engine::ControlObserver& observer,
                                   engine::Wheel& wheel)
    : config_(std::move(config)),
      observer_(observer),
      wheel_(wheel),
      work_(asio::make_work_guard(io_)),
      acceptor_(io_),
      accept_retry_(io_) {
  std::error_code error;
  const auto address = asio::ip::make_address(config_.listen_address, error);
  const asio::ip::tcp::endpoint endpoint(address, 0);
  if (!error) acceptor_.open(endpoint.protocol(), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    throw std::runtime_error("papilio can not listen on '" + config_.listen_address +
                             "': " + error.message() +
                             "; set PAPILIO_INTERFACE to an interface of this host");
  }
  const auto local = acceptor_.local_endpoint();
  config_.self.address = local.address().to_string() + ":" + std::to_string(local.port());
  accept();
}

AsioControlPlane::~AsioControlPlane() {
  closing_ = true;
  if (watched_) watched_->release();  // the descriptor belongs to the transport
}

std::string AsioControlPlane::localRecord() const {
  return formatRecord(config_.self.address, config_.self.process, hashBytes(config_.self.host_id));
}

void AsioControlPlane::accept() {
  acceptor_.async_accept(wheel_.guarding([this](std::error_code error,
                                                asio::ip::tcp::socket socket) {
    if (closing_) return;
    if (error) {  // out of descriptors: try again later instead of spinning
      if (!accept_failing_) {
        note("can not accept a connection: " + error.message() +
             "; going on to try. Raise the limit of file descriptors (ulimit -n) if that is it");
      }
      accept_failing_ = true;
      accept_retry_.expires_after(std::chrono::milliseconds(100));
      accept_retry_.async_wait(wheel_.guarding([this](std::error_code waited) {
        if (!waited) accept();
      }));
      return;
    }
    accept_failing_ = false;
    if (makeRoom()) {
      begin(std::make_shared<Connection>(std::move(socket), wheel_), Role::listener, std::nullopt);
    } else {
      ++counters_.rejected_garbage;
    }
    accept();
  }));
}

AsioControlPlane::Peer* AsioControlPlane::byProcess(ProcessId process) {
  for (auto& [id, peer] : peers_) {
    if (peer.process == process) return &peer;
  }
  return nullptr;
}

void AsioControlPlane::connect(PeerId id, const std::string& record, Duration limit) {
  const Record parsed = parseRecord(record);
  Peer& peer = peers_.try_emplace(id, id, io_).first->second;
  peer.process = parsed.process;
  peer.endpoint = parsed.endpoint;
  peer.limit.expires_after(limit);
  peer.limit.async_wait(wheel_.guarding([this, &peer](std::error_code error) {
    if (error || peer.state != Peer::State::connecting) return;
    down(peer, DownCause::unreachable,
         peer.endpoint.address().to_string() + ":" + std::to_string(peer.endpoint.port()) + ": " +
             peer.last_error);
  }));
  if (parked(peer.process) != nullptr) {
    // Not inside this call: the observer does not expect its peer before connect() has returned.
    asio::post(io_, wheel_.guarding([this, &peer] { takeParked(peer); }));
    return;
  }
  if (config_.self.process < peer.process) dial(peer);
}

void AsioControlPlane::dial(Peer& peer) {
  auto socket = std::make_shared<asio::ip::tcp::socket>(io_);
  auto connected = [this, &peer, socket](std::error_code error) {
    if (closing_ || peer.state != Peer::State::connecting) return;
    if (error) {
      redial(peer, error.message());
    } else {
      begin(std::make_shared<Connection>(std::move(*socket), wheel_), Role::dialer, peer.id);
    }
  };
  socket->async_connect(peer.endpoint, wheel_.guarding(std::move(connected)));
}

void AsioControlPlane::redial(Peer& peer, const std::string& why) {
  if (peer.state != Peer::State::connecting) return;
  peer.last_error = why;
  peer.backoff = std::clamp(peer.backoff * 2, kFirstBackoff, kMaxBackoff);
  peer.retry.expires_after(peer.backoff);
  peer.retry.async_wait(wheel_.guarding([this, &peer](std::error_code error) {
    if (!error && peer.state == Peer::State::connecting) dial(peer);
  }));
}

void AsioControlPlane::adopt(Peer& peer, ConnectionPtr connection, PeerHello hello) {
  peer.state = Peer::State::up;
  peer.hello = std::move(hello);
  peer.connection = std::move(connection);
  peer.limit.cancel();
  peer.retry.cancel();
  peer.connection->limitFrames(kMaxDataFrame);
  const bool same_host = peer.hello.host_id == config_.self.host_id;
  setKeepalive(peer.connection->socket().native_handle(), same_host);
  peer.connection->handOver(
      [this, &peer](Kind kind, std::span<const std::byte> body) { onPeerFrame(peer, kind, body); },
      [this, &peer](std::error_code error, bool broken_rules) {
        onPeerEnd(peer, error, broken_rules);
      });
  if (same_host && peer.hello.pid != 0) watchProcess(peer);
  const ConnectionPtr up = peer.connection;
  observer_.onPeerUp(peer.id, peer.hello);
  up->resume();  // it may have been parked
}

void AsioControlPlane::onPeerFrame(Peer& peer, Kind kind, std::span<const std::byte> body) {
  switch (kind) {
    case Kind::data: observer_.onFrame(peer.id, body); return;
    case Kind::ping: peer.connection->send(Kind::pong, body); return;
    case Kind::pong: {
      std::int64_t sent = 0;
      if (!peer.ping_outstanding || body.size() != sizeof sent) return;
      peer.ping_outstanding = false;
      std::memcpy(&sent, body.data(), sizeof sent);
      const auto now = std::chrono::steady_clock::now().time_since_epoch();
      observer_.onPong(peer.id, now - Duration(sent));
      return;
    }
    case Kind::bye: down(peer, DownCause::bye, ""); return;
    default:
      ++counters_.rejected_garbage;
      down(peer, DownCause::connection_reset, "it sent a handshake frame a second time");
  }
}

void AsioControlPlane::onPeerEnd(Peer& peer, std::error_code error, bool broken_rules) {
  if (broken_rules) {
    ++counters_.rejected_garbage;
    down(peer, DownCause::connection_reset, "it sent no valid frame");
    return;
  }
  const bool closed = error == asio::error::eof;
  const auto cause = closed ? DownCause::connection_closed : DownCause::connection_reset;
  const std::string detail = closed ? "" : error.message();
  if (!peer.pidfd) {
    down(peer, cause, detail);
    return;
  }
  // The process's end follows within moments if that is the reason, and says more.
  peer.retry.expires_after(kPidfdGrace);
  peer.retry.async_wait(wheel_.guarding([this, &peer, cause, detail](std::error_code waited) {
    if (!waited) down(peer, cause, detail);
  }));
}

void AsioControlPlane::watchProcess(Peer& peer) {
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(peer.hello.pid), 0));
  if (fd < 0) return;  // gone already, or an old kernel: the connection itself will tell
  peer.pidfd.emplace(io_);
  std::error_code refused;
  peer.pidfd->assign(fd, refused);
  if (refused) {
    ::close(fd);
    peer.pidfd.reset();
    return;
  }
  auto ended = [this, &peer](std::error_code error) {
    if (error || peer.state != Peer::State::up) return;
    // What it said last counts before its end.
    if (peer.connection) peer.connection->drain();
    down(peer, DownCause::process_exit, "exit seen by pidfd");
  };
  peer.pidfd->async_wait(asio::posix::stream_descriptor::wait_read,
                         wheel_.guarding(std::move(ended)));
}

bool AsioControlPlane::endsUnheard() {
  processes_.clear();
  for (auto& [id, peer] : peers_) {
    if (peer.state != Peer::State::up || !peer.pidfd) continue;
    processes_.push_back({peer.pidfd->native_handle(), POLLIN, 0});
  }
  return !processes_.empty() && ::poll(processes_.data(), processes_.size(), 0) > 0;
}

void AsioControlPlane::down(Peer& peer, DownCause cause, const std::string& detail) {
  if (peer.state == Peer::State::down) return;
  peer.state = Peer::State::down;
  peer.limit.cancel();
  peer.retry.cancel();
  if (peer.connection) peer.connection->close();
  if (peer.pidfd) {
    std::error_code ignored;
    peer.pidfd->close(ignored);
  }
  if (!closing_) observer_.onPeerDown(peer.id, cause, detail);
}

bool AsioControlPlane::send(PeerId id, std::span<const std::byte> frame) {
  const auto it = peers_.find(id);
  const bool up = it != peers_.end() && it->second.state == Peer::State::up;
  if (up && frame.size() <= kMaxDataFrame && it->second.connection->send(Kind::data, frame)) {
    return true;
  }
  ++counters_.frames_dropped;
  return false;
}

void AsioControlPlane::ping(PeerId id) {
  const auto it = peers_.find(id);
  if (it == peers_.end() || it->second.state != Peer::State::up) return;
  Peer& peer = it->second;
  if (peer.ping_outstanding) return;
  const std::int64_t now =
      std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now().time_since_epoch())
          .count();
  peer.ping_outstanding = peer.connection->send(Kind::ping, std::as_bytes(std::span(&now, 1)));
}

void AsioControlPlane::shutdown(std::uint32_t limit_ms) {
  closing_ = true;
  std::error_code ignored;
  acceptor_.close(ignored);
  for (auto& [id, pending] : pending_) pending.connection->close();
  pending_.clear();
  for (auto& [id, peer] : peers_) {
    if (peer.state == Peer::State::up) peer.connection->send(Kind::bye, {});
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(limit_ms);
  const auto flushed = [&] {
    for (const auto& [id, peer] : peers_) {
      if (peer.state == Peer::State::up && peer.connection->open() && !peer.connection->flushed()) {
        return false;
      }
    }
    return true;
  };
  while (!flushed() && std::chrono::steady_clock::now() < end) {
    io_.restart();
    io_.run_one_for(std::chrono::milliseconds(5));
  }
  for (auto& [id, peer] : peers_) down(peer, DownCause::bye, "");
  if (watched_) watched_->release();
  watched_.reset();
  accept_retry_.cancel();
  work_.reset();
  io_.restart();
  io_.poll();  // runs the cancelled handlers
}

void AsioControlPlane::watch(int fd) { watched_.emplace(io_, fd); }

// Bounded: whoever keeps this busy must not keep wait() from returning.
void AsioControlPlane::runReady() {
  for (int i = 0; i < kReadyBatch && io_.poll_one() != 0; ++i) {
  }
}

void AsioControlPlane::wait(Duration max) {
  if (io_.stopped()) io_.restart();
  if (max <= Duration::zero()) {
    runReady();
    return;
  }
  if (watched_ && !watching_) {
    watching_ = true;
    watched_->async_wait(asio::posix::stream_descriptor::wait_read,
                         wheel_.guarding([this](std::error_code) { watching_ = false; }));
  }
  sleep(max);
}

// Whoever takes the wheel meanwhile may use everything here: handlers take it before they run.
void AsioControlPlane::sleep(Duration max) {
  struct Aside {
    explicit Aside(engine::Wheel& wheel) : held(wheel) { held.unlock(); }
    ~Aside() { held.lock(); }
    engine::Wheel& held;
  };
  {
    const Aside aside(wheel_);
    io_.run_one_for(max);
  }
  runReady();
}

void AsioControlPlane::nap(Duration max) {
  if (io_.stopped()) io_.restart();
  if (watched_ && watching_) {
    watched_->cancel();
    runReady();  // the cancelled handler must not end the wait
  }
  sleep(max);
}

void AsioControlPlane::wake() {
  if (woken_.exchange(true)) return;  // its handler has not run yet
  asio::post(io_, [this] { woken_.store(false); });
}

std::unique_ptr<engine::ControlPlane> makeControlPlane(Config config,
                                                       engine::ControlObserver& observer,
                                                       engine::Wheel& wheel) {
  try {
    return std::make_unique<AsioControlPlane>(std::move(config), observer, wheel);
  } catch (const std::system_error& error) {
    throw std::runtime_error(std::string("papilio can not open its control connections: ") +
                             error.what() +
                             "; is the limit of file descriptors (ulimit -n) too small?");
  }
}

}  // namespace papilio::control
