#include "shm_transport/shm_transport.hpp"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "shm_transport/link.hpp"

namespace papilio::shm {

namespace {

constexpr int kBatch = 32;  // messages from one peer before the others are looked at
// Without a sleep, the other lane's descriptor is looked at once in so many calls.
constexpr unsigned kLookEvery = 32;
// Pages of peers' segments that are mapped here count as resident memory of this process.
constexpr std::uint64_t kMappedBytes = 80ULL << 20;

// What a process has to have before it can offer the lane; throws std::runtime_error.
struct Resources {
  OwnSegment segment;
  Doorbell bell;
  Doorbell waiter_bell;
  int epoll = epoll_create1(EPOLL_CLOEXEC);

  explicit Resources(int other_fd) {
    for (const int fd : {other_fd, bell.readFd()}) {
      epoll_event event{EPOLLIN, {}};
      event.data.fd = fd;
      if (epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0) continue;
      const std::string why = std::strerror(errno);
      if (epoll >= 0) close(epoll);
      throw std::runtime_error("watching the lanes (epoll): " + why);
    }
  }
  ~Resources() { close(epoll); }
  Resources(const Resources&) = delete;
  Resources& operator=(const Resources&) = delete;
};

class ShmTransport final : public engine::Transport {
 public:
  ShmTransport(Config config, engine::TransportObserver& observer,
               std::unique_ptr<Resources> resources, std::unique_ptr<engine::Transport> other)
      : config_(std::move(config)),
        observer_(observer),
        other_(std::move(other)),
        resources_(std::move(resources)) {
    for (std::uint32_t slot = kSlots; slot-- > 0;) free_slots_.push_back(slot);
  }

  std::vector<std::byte> localAddress() const override {
    if (!resources_) return join(std::nullopt, other_->localAddress());
    Address own;
    own.host_id = config_.host_id;
    own.pid = static_cast<std::uint32_t>(getpid());
    own.segment_fd = segment().fd();
    own.bell_fd = resources_->bell.writeFd();
    own.waiter_bell_fd = resources_->waiter_bell.writeFd();
    own.nonce = segment().nonce();
    return join(own, other_->localAddress());
  }

  void connect(PeerId peer, ProcessId process, std::span<const std::byte> address) override {
    const Parts parts = split(address);
    std::string why = "it has none";
    if (parts.own && parts.own->host_id != config_.host_id) why = "it is on another host";
    const bool near = resources_ && parts.own && parts.own->host_id == config_.host_id;
    const bool mapped = near && map(peer, process, *parts.own, why);
    other_quiet_ = false;
    if (!only()) {
      other_->connect(peer, process, parts.other_lane);
    } else if (!mapped) {
      errors_.emplace_back(peer, "transport='shm' and no shared memory with it: " + why);
    }
  }

  void disconnect(PeerId peer, bool process_is_dead) override {
    other_quiet_ = false;
    other_->disconnect(peer, process_is_dead);
    const auto it = links_.find(peer);
    if (it == links_.end()) return;
    Link& link = *it->second;
    // What a dead process had finished publishing is whole, and counts.
    if (process_is_dead && link.open()) {
      while (receive(link) != 0) {
      }
    }
    link.stopReading();
    if (!process_is_dead) return;  // it may still read what is pending
    release(link);
    segment().control().directory[link.slot()].store(0);
    free_slots_.push_back(link.slot());
    std::erase(order_, peer);
    links_.erase(it);
  }

  bool send(PeerId peer, std::span<const std::byte> header, std::span<const std::byte> payload,
            SendToken token) override {
    const auto it = links_.find(peer);
    if (it != links_.end() && it->second->open() && it->second->broken().empty()) {
      if (it->second->publish(header, payload, token)) {
        sent_ += payload.size();
        return true;
      }
    }
    other_quiet_ = false;
    if (!only()) return other_->send(peer, header, payload, token);
    const bool staged = payload.empty() || segment().offsetOf(payload) != 0;
    if (it == links_.end() || !it->second->broken().empty() || !staged) return false;
    waiting_.push_back({peer, header, payload, token});
    return true;
  }

  bool sendFrame(PeerId peer, std::span<const std::byte> frame) override {
    const auto it = links_.find(peer);
    return it != links_.end() && it->second->open() && it->second->broken().empty() &&
           it->second->publishFrame(frame);
  }

  // The peer may hold half of it until contributions of others have come.
  std::uint64_t window(PeerId peer) const override {
    const auto it = links_.find(peer);
    return it != links_.end() && it->second->reading() ? 1ULL << 20 : other_->window(peer);
  }

  std::shared_ptr<const void> hold(std::span<const std::byte> payload) override {
    const bool current = reported_ != nullptr && payload.data() == reported_payload_;
    return current ? reported_->hold() : nullptr;
  }

  std::uint32_t progress() override {
    look();
    std::uint32_t events = 0;
    for (std::size_t i = 0; i < order_.size(); ++i) {
      const auto it = links_.find(order_[i]);
      if (it != links_.end()) events += serve(*it->second);
    }
    events += sendWaiting();
    if (events != 0) boundPages();
    std::vector<std::pair<PeerId, std::string>> errors;
    errors.swap(errors_);
    for (const auto& [peer, why] : errors) observer_.onPeerError(peer, why);
    events += static_cast<std::uint32_t>(errors.size());
    return other_quiet_ ? events : events + other_->progress();
  }

  int eventFd() const override { return resources_ ? resources_->epoll : other_->eventFd(); }

  bool arm() override { return armFor(Sleeper::progress); }
  bool armWaiter() override { return armFor(Sleeper::waiter); }
  int waiterFd() const override { return resources_ ? resources_->waiter_bell.readFd() : -1; }

  std::string laneName(PeerId peer) const override {
    const auto it = links_.find(peer);
    if (it != links_.end() && it->second->reading()) return "shm";
    return only() ? "none" : other_->laneName(peer);
  }

  engine::Arena* arena() override { return resources_ ? &segment() : nullptr; }

  void addStats(std::map<std::string, double>& out) const override {
    out["bytes.shm.sent"] += static_cast<double>(sent_);
    out["bytes.shm.received"] += static_cast<double>(received_);
    other_->addStats(out);
  }

  bool shutdown(std::uint32_t limit_ms) override {
    // Peers that live on can still read what was published: nothing of it changes any more.
    if (resources_) segment().freeze();
    for (auto& [peer, link] : links_) release(*link);
    for (const auto& message : std::exchange(waiting_, {})) {
      observer_.onSendDone(message.token, false);
    }
    return other_->shutdown(limit_ms);
  }

 private:
  struct Waiting {
    PeerId peer;
    std::span<const std::byte> header;
    std::span<const std::byte> payload;
    SendToken token;
  };

  void say(Sleeper who) {
    sleep_ = nextSleep(sleep_, who);
    segment().control().sleep.store(sleep_);
  }

  bool armFor(Sleeper who) {
    if (!resources_) return other_->arm();
    if (sleeperOf(sleep_) != who) say(who);
    bool ready = !errors_.empty();
    for (auto& [peer, link] : links_) ready = link->readyBeforeSleep() || ready;
    if (!ready && !other_quiet_) other_quiet_ = other_->arm();
    if (!ready && other_quiet_) return true;
    say(Sleeper::nobody);
    return false;
  }

  bool only() const { return config_.use == Use::only; }
  OwnSegment& segment() { return resources_->segment; }
  const OwnSegment& segment() const { return resources_->segment; }

  bool map(PeerId peer, ProcessId process, const Address& address, std::string& why) {
    if (free_slots_.empty()) {
      why = "all slots of the segment are taken";
      return false;
    }
    const std::uint32_t slot = free_slots_.back();
    try {
      auto link = std::make_shared<Link>(peer, config_.self, address, segment(), slot);
      segment().control().directory[slot].store(process.value);
      link->wake();
      links_[peer] = std::move(link);
    } catch (const std::runtime_error& error) {
      why = error.what();
      if (config_.log) config_.log("no shared memory with a peer of this host: " + why);
      return false;
    }
    free_slots_.pop_back();
    order_.push_back(peer);
    return true;
  }

  // Ends a sleep, and finds out whether the other lane has something: to progress it each time, and
  // to arm it before each sleep, would cost system calls for a lane that is mostly idle.
  void look() {
    if (!resources_) return;
    const Sleeper slept = sleeperOf(sleep_);
    if (slept != Sleeper::nobody) say(Sleeper::nobody);
    if (slept == Sleeper::waiter) resources_->waiter_bell.drain();
    if (slept == Sleeper::nobody && ++unseen_ < kLookEvery) return;
    unseen_ = 0;
    std::array<epoll_event, 2> ready;
    const int count = epoll_wait(resources_->epoll, ready.data(), ready.size(), 0);
    for (int i = 0; i < count; ++i) {
      if (ready[static_cast<std::size_t>(i)].data.fd == resources_->bell.readFd()) {
        resources_->bell.drain();
      } else {
        other_quiet_ = false;
      }
    }
  }

  std::uint32_t serve(Link& link) {
    const bool known = link.reading();
    if (!link.open()) return 0;
    std::uint32_t events = known ? 0 : 1;
    for (SendToken token; link.takeDone(token); ++events) observer_.onSendDone(token, true);
    return events + receive(link);
  }

  std::uint32_t receive(Link& link) {
    std::uint32_t events = 0;
    Entry entry;
    std::span<const std::byte> payload;
    while (events < kBatch && link.next(entry, payload)) {
      const std::span<const std::byte> header{entry.header.data(), entry.header_bytes};
      if (entry.is_frame != 0) {
        observer_.onLaneFrame(link.peer(), header);
      } else {
        reported_ = &link;
        reported_payload_ = payload.data();
        observer_.onMessage(link.peer(), header, payload);
      }
      received_ += payload.size();
      link.handled();
      ++events;
    }
    reported_ = nullptr;
    if (events != 0) link.settle();
    if (!link.broken().empty() && link.reading()) {
      link.stopReading();
      errors_.emplace_back(link.peer(), "its shared memory is damaged: " + link.broken());
    }
    return events;
  }

  // Sends that will not be taken any more.
  void release(Link& link) {
    for (SendToken token; link.takePending(token);) observer_.onSendDone(token, false);
  }

  // transport='shm': what was sent before the peer had mapped this process.
  std::uint32_t sendWaiting() {
    if (waiting_.empty()) return 0;
    std::uint32_t events = 0;
    std::deque<Waiting> waiting;
    waiting.swap(waiting_);
    for (const auto& message : waiting) {
      const auto it = links_.find(message.peer);
      const bool gone = it == links_.end() || !it->second->broken().empty();
      if (gone) {
        observer_.onSendDone(message.token, false);
      } else if (!it->second->open() ||
                 !it->second->publish(message.header, message.payload, message.token)) {
        waiting_.push_back(message);
        continue;
      }
      ++events;
    }
    return events;
  }

  void boundPages() {
    std::uint64_t mapped = 0;
    for (const auto& [peer, link] : links_) mapped += link->mappedBytes();
    if (mapped < kMappedBytes) return;
    for (auto& [peer, link] : links_) link->forgetPages();
  }

  Config config_;
  engine::TransportObserver& observer_;
  std::unique_ptr<engine::Transport> other_;
  std::unique_ptr<Resources> resources_;  // none: only the other lane
  std::unordered_map<PeerId, std::shared_ptr<Link>> links_;
  std::vector<PeerId> order_;
  std::vector<std::uint32_t> free_slots_;
  std::vector<std::pair<PeerId, std::string>> errors_;
  std::deque<Waiting> waiting_;
  Link* reported_ = nullptr;  // whose message is being handled
  const std::byte* reported_payload_ = nullptr;
  std::uint64_t sleep_ = 0;   // as in the segment
  bool other_quiet_ = false;  // armed, and nothing seen on its descriptor since
  unsigned unseen_ = 0;       // calls of look() since it looked
  std::uint64_t sent_ = 0;
  std::uint64_t received_ = 0;
};

}  // namespace

std::unique_ptr<engine::Transport> makeTransport(Config config, engine::TransportObserver& observer,
                                                 std::unique_ptr<engine::Transport> other) {
  std::unique_ptr<Resources> resources;
  try {
    if (config.use != Use::never) resources = std::make_unique<Resources>(other->eventFd());
  } catch (const std::runtime_error& error) {
    if (config.use == Use::only) throw;
    if (config.log) config.log(std::string("no shared memory lane: ") + error.what());
  }
  return std::make_unique<ShmTransport>(std::move(config), observer, std::move(resources),
                                        std::move(other));
}

}  // namespace papilio::shm
