#include "shm_transport/lanes.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <random>
#include <stdexcept>

namespace papilio::shm::testing {

void Recorder::onMessage(PeerId from, std::span<const std::byte> header,
                         std::span<const std::byte> payload) {
  ++received;
  if (on_message) on_message(payload);
  if (keep) {
    messages.push_back({from, {header.begin(), header.end()}, {payload.begin(), payload.end()}});
  }
}
void Recorder::onSendDone(SendToken token, bool delivered) { done[token].push_back(delivered); }
void Recorder::onPeerError(PeerId peer, const std::string& why) { errors.emplace_back(peer, why); }

OtherLane::OtherLane(engine::TransportObserver& observer)
    : observer_(observer), fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
OtherLane::~OtherLane() { close(fd_); }

void OtherLane::connect(PeerId peer, ProcessId, std::span<const std::byte> address) {
  connected[peer] = {address.begin(), address.end()};
}

bool OtherLane::send(PeerId peer, std::span<const std::byte>, std::span<const std::byte>,
                     SendToken token) {
  if (!connected.contains(peer)) return false;
  ++sent;
  observer_.onSendDone(token, true);
  return true;
}

void OtherLane::stir() {
  const std::uint64_t one = 1;
  static_cast<void>(!write(fd_, &one, sizeof one));
}

std::uint32_t OtherLane::progress() {
  ++progressed;
  std::uint64_t count = 0;
  if (read(fd_, &count, sizeof count) != static_cast<ssize_t>(sizeof count)) return 0;
  stirred += count;
  return static_cast<std::uint32_t>(count);
}

bool OtherLane::arm() {
  pollfd event{fd_, POLLIN, 0};
  return poll(&event, 1, 0) == 0;
}

Lane::Lane(std::uint64_t id, Use use, std::string host) : process(id) {
  auto behind = std::make_unique<OtherLane>(seen);
  other = behind.get();
  Config config;
  config.self = process;
  config.host_id = std::move(host);
  config.use = use;
  config.log = [this](const std::string& line) { log.push_back(line); };
  transport = makeTransport(std::move(config), seen, std::move(behind));
}

bool Lane::send(std::uint32_t peer, const Bytes& header, const Bytes& payload, SendToken token) {
  collect();
  Staged staged{header, nullptr, static_cast<std::uint32_t>(payload.size())};
  if (!payload.empty()) {
    if (auto* arena = transport->arena()) staged.data = arena->take(staged.bytes);
    if (staged.data == nullptr) staged.data = heap_.emplace_back(payload.size()).data();
    std::memcpy(staged.data, payload.data(), payload.size());
  }
  Staged& kept = staged_[token] = std::move(staged);
  const std::span<const std::byte> bytes(kept.data, kept.bytes);
  const bool accepted = transport->send(PeerId{peer}, kept.header, bytes, token);
  if (!accepted) staged_.erase(token);
  return accepted;
}

// Overwrites what is done, so that whoever still reads it is caught.
void Lane::collect() {
  for (auto it = staged_.begin(); it != staged_.end();) {
    if (!seen.done.contains(it->first)) {
      ++it;
      continue;
    }
    if (it->second.data != nullptr) std::memset(it->second.data, 0xee, it->second.bytes);
    if (it->second.data != nullptr && transport->arena() != nullptr) {
      transport->arena()->giveBack(it->second.data, it->second.bytes);
    }
    it = staged_.erase(it);
  }
}

namespace {

[[noreturn]] void childMain(const Bytes& parent, ProcessId process, int out, Child::Role role) {
  alarm(120);
  Lane lane(Child::kProcess);
  lane.seen.keep = false;
  const Bytes address = lane.transport->localAddress();
  if (write(out, address.data(), address.size()) != static_cast<ssize_t>(address.size())) _exit(3);
  close(out);
  lane.transport->connect(PeerId{0}, process, parent);
  const bool up = pump({&lane}, [&] { return lane.transport->laneName(PeerId{0}) == "shm"; });
  if (!up) _exit(4);
  const auto orphaned = [start = getppid()] { return getppid() != start; };
  if (role == Child::Role::receiver) pump({&lane}, orphaned, std::chrono::seconds(100));
  for (SendToken token = 0; role == Child::Role::sender && !orphaned(); ++token) {
    const auto seed = static_cast<unsigned>(token % 251);
    lane.send(0, Bytes(64), Bytes(Child::kPayload, static_cast<std::byte>(seed)), token);
    pump({&lane}, [&] { return token + 1 - lane.seen.done.size() < 8 || orphaned(); });
  }
  _exit(0);
}

}  // namespace

Child::Child(const Lane& parent, Role role) {
  const Bytes parent_address = parent.transport->localAddress();
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) throw std::runtime_error("pipe");
  pid_ = fork();
  if (pid_ == 0) childMain(parent_address, parent.process, ends[1], role);
  close(ends[1]);
  std::array<std::byte, 4096> buffer;
  for (ssize_t size; (size = read(ends[0], buffer.data(), buffer.size())) > 0;) {
    address_.insert(address_.end(), buffer.begin(), buffer.begin() + size);
  }
  close(ends[0]);
}

Child::~Child() { end(); }

void Child::kill(int signal) { ::kill(pid_, signal); }

void Child::end() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

}  // namespace papilio::shm::testing
