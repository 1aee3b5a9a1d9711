#include "ucx_transport/lanes.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <random>
#include <stdexcept>

namespace papilio::ucx::testing {

void Recorder::onMessage(PeerId from, std::span<const std::byte> header,
                         std::span<const std::byte> payload) {
  ++received;
  if (keep) {
    messages.push_back({from, {header.begin(), header.end()}, {payload.begin(), payload.end()}});
  }
  if (on_message) on_message();
}
void Recorder::onSendDone(SendToken token, bool ok) {
  ++done[token];
  ++finished;
  delivered[token] = ok;
}
void Recorder::onPeerError(PeerId peer, const std::string& why) { errors.emplace_back(peer, why); }

Lane::Lane(std::uint64_t id) : process(id) {
  Config config;
  config.self = process;
  config.net_devices = "lo";
  transport = makeTransport(std::move(config), seen);
}

bool Lane::send(std::uint32_t peer, Bytes header, Bytes payload, SendToken token) {
  auto& [kept_header, kept_payload] = buffers_[token];
  kept_header = std::move(header);
  kept_payload = std::move(payload);
  const bool accepted = transport->send(PeerId{peer}, kept_header, kept_payload, token);
  accepted_ += accepted ? 1 : 0;
  return accepted;
}

std::size_t Lane::open() const { return accepted_ - seen.finished; }

std::size_t openDescriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

namespace {

constexpr const char* kChildWord = "--papilio-child";

void writeAll(int fd, const Bytes& bytes) {
  if (write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) _exit(3);
}

[[noreturn]] void childMain(const std::string& parent_hex) {
  alarm(120);
  Bytes parent;
  for (std::size_t i = 0; i + 1 < parent_hex.size(); i += 2) {
    parent.push_back(static_cast<std::byte>(std::stoi(parent_hex.substr(i, 2), nullptr, 16)));
  }
  Lane lane(Child::kProcess);
  lane.seen.keep = false;
  writeAll(STDOUT_FILENO, lane.transport->localAddress());
  close(STDOUT_FILENO);
  lane.transport->connect(PeerId{0}, ProcessId{1}, parent);
  SendToken token = 0;
  const Bytes payload = pattern(256 * 1024, 1);
  for (;;) {
    while (lane.open() < 4) {
      if (!lane.send(0, Bytes(64), payload, ++token % 8)) _exit(0);
    }
    pump({&lane}, [&] { return lane.open() < 4 || !lane.seen.errors.empty(); });
    if (!lane.seen.errors.empty()) _exit(0);
  }
}

}  // namespace

Child::Child(const Lane& parent) {
  std::string hex;
  for (const auto byte : parent.transport->localAddress()) {
    std::array<char, 3> text{};
    std::snprintf(text.data(), text.size(), "%02x", static_cast<unsigned>(byte));
    hex += text.data();
  }
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) throw std::runtime_error("pipe");
  pid_ = fork();
  if (pid_ == 0) {
    dup2(ends[1], STDOUT_FILENO);
    execl("/proc/self/exe", "ucx_transport_test", kChildWord, hex.c_str(), nullptr);
    _exit(4);
  }
  close(ends[1]);
  std::array<std::byte, 4096> buffer;
  for (ssize_t size; (size = read(ends[0], buffer.data(), buffer.size())) > 0;) {
    address_.insert(address_.end(), buffer.begin(), buffer.begin() + size);
  }
  close(ends[0]);
}

Child::~Child() {
  ::kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void Child::kill(int signal) { ::kill(pid_, signal); }

void Child::runIfAsked(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], kChildWord) == 0) childMain(argv[2]);
}

}  // namespace papilio::ucx::testing
