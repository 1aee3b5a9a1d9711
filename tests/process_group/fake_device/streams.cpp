#include "process_group/fake_device/streams.hpp"

#include <chrono>
#include <cstdlib>
#include <cstring>

namespace fake {

namespace {

constexpr std::size_t kHosts = 2;
constexpr int kPoison = 0xdb;
constexpr unsigned kLongest = 300;  // microseconds that a step may be late

thread_local std::int64_t current_stream = 0;

}  // namespace

Device& Device::instance() {
  static auto* device = new Device();  // its threads live as long as the process
  return *device;
}

Device::Device() : first_(std::this_thread::get_id()) { newStream(); }

std::size_t Device::hostActor() const { return std::this_thread::get_id() == first_ ? 0 : 1; }
Clock& Device::host() { return hosts_[hostActor()]; }

std::int64_t Device::newStream() {
  std::lock_guard lock(mutex_);
  streams_.push_back(std::make_unique<Stream>());
  const auto number = static_cast<std::int64_t>(streams_.size()) - 1;
  std::thread([this, number] { main(number); }).detach();
  return number;
}

std::int64_t Device::current() const { return current_stream; }

std::int64_t Device::exchangeCurrent(std::int64_t stream) {
  return std::exchange(current_stream, stream);
}

void Device::push(std::int64_t stream, Step step) {
  host().step(hostActor());
  step.issued = host();
  streams_[static_cast<std::size_t>(stream)]->steps.push_back(std::move(step));
  changed_.notify_all();
}

void Device::main(std::int64_t number) {
  std::unique_lock lock(mutex_);
  Stream& stream = *streams_[static_cast<std::size_t>(number)];
  const std::size_t actor = kHosts + static_cast<std::size_t>(number);
  while (true) {
    changed_.wait(lock, [&] { return !stream.steps.empty(); });
    const Step step = std::move(stream.steps.front());
    stream.steps.pop_front();
    stream.busy = true;
    const std::chrono::microseconds late(random_() % kLongest);
    lock.unlock();
    std::this_thread::sleep_for(late);
    lock.lock();
    if (step.ready) changed_.wait(lock, step.ready);
    stream.clock.join(step.issued);
    stream.clock.step(actor);
    if (step.run) step.run();
    if (step.work) {
      lock.unlock();
      step.work();
      lock.lock();
    }
    stream.busy = false;
    changed_.notify_all();
  }
}

void Device::enqueue(std::int64_t number, std::string what, std::vector<Touch> uses,
                     std::function<void()> work) {
  std::lock_guard lock(mutex_);
  Stream& stream = *streams_[static_cast<std::size_t>(number)];
  const std::size_t actor = kHosts + static_cast<std::size_t>(number);
  push(number, {{},
                {},
                [this, &stream, actor, what = std::move(what), uses = std::move(uses)] {
                  for (const auto& use : uses) {
                    memory_.used(use.data, use.bytes, use.writes, what, actor, stream.clock);
                  }
                },
                std::move(work)});
}

void Device::record(const std::shared_ptr<Event>& event, std::int64_t number) {
  std::lock_guard lock(mutex_);
  Stream& stream = *streams_[static_cast<std::size_t>(number)];
  const auto version = ++event->asked;
  push(number, {{},
                {},
                [event, version, &stream] {
                  event->done = version;
                  event->clock = stream.clock;
                },
                {}});
}

void Device::block(const std::shared_ptr<Event>& event, std::int64_t number) {
  std::lock_guard lock(mutex_);
  Stream& stream = *streams_[static_cast<std::size_t>(number)];
  const auto version = event->asked;
  push(number, {{},
                [event, version] { return event->done >= version; },
                [event, &stream] { stream.clock.join(event->clock); },
                {}});
}

bool Device::query(const std::shared_ptr<Event>& event) {
  std::lock_guard lock(mutex_);
  if (event->done < event->asked) return false;
  host().join(event->clock);
  return true;
}

void Device::synchronize(const std::shared_ptr<Event>& event) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return event->done >= event->asked; });
  host().join(event->clock);
}

void Device::synchronizeStream(std::int64_t number) {
  std::unique_lock lock(mutex_);
  const Stream& stream = *streams_[static_cast<std::size_t>(number)];
  changed_.wait(lock, [&] { return stream.steps.empty() && !stream.busy; });
  host().join(stream.clock);
}

bool Device::idle(std::int64_t number) {
  std::lock_guard lock(mutex_);
  const Stream& stream = *streams_[static_cast<std::size_t>(number)];
  if (!stream.steps.empty() || stream.busy) return false;
  host().join(stream.clock);
  return true;
}

std::shared_ptr<Gate> Device::hold(std::int64_t number) {
  auto gate = std::make_shared<Gate>();
  std::lock_guard lock(mutex_);
  Stream& stream = *streams_[static_cast<std::size_t>(number)];
  push(
      number,
      {{}, [gate] { return gate->open; }, [gate, &stream] { stream.clock.join(gate->clock); }, {}});
  return gate;
}

void Device::open(const std::shared_ptr<Gate>& gate) {
  std::lock_guard lock(mutex_);
  host().step(hostActor());
  gate->clock = host();
  gate->open = true;
  changed_.notify_all();
}

void* Device::allocate(std::size_t bytes, bool pinned) {
  void* data = std::malloc(std::max<std::size_t>(bytes, 1));
  std::memset(data, kPoison, bytes);
  std::lock_guard lock(mutex_);
  blocks_[data] = {bytes, current_stream, pinned};
  memory_.allocated(data, bytes);
  return data;
}

void Device::adopt(void* data, std::size_t bytes) {
  std::lock_guard lock(mutex_);
  memory_.allocated(data, bytes);
}

void Device::release(void* data) {
  std::lock_guard lock(mutex_);
  const Block block = blocks_[data];
  blocks_.erase(data);
  Clock known = hosts_[0];  // the count of references brings both together
  known.join(hosts_[1]);
  const auto owner = block.pinned ? hostActor() : kHosts + static_cast<std::size_t>(block.stream);
  memory_.freed(data, hostActor(), known, owner);
  const auto poison = [data, bytes = block.bytes] { std::memset(data, kPoison, bytes); };
  if (block.pinned) {
    poison();
  } else {
    push(block.stream, {{}, {}, {}, poison});
  }
}

bool Device::pinned(const void* data) {
  std::lock_guard lock(mutex_);
  auto found = blocks_.upper_bound(data);
  if (found == blocks_.begin()) return false;
  --found;
  const auto* end = static_cast<const char*>(found->first) + found->second.bytes;
  return found->second.pinned && static_cast<const char*>(data) < end;
}

std::vector<std::string> Device::races() {
  std::lock_guard lock(mutex_);
  return memory_.races();
}

void Device::complain(const std::string& what) {
  std::lock_guard lock(mutex_);
  memory_.complain(what);
}

std::uint64_t Device::uses() {
  std::lock_guard lock(mutex_);
  return memory_.uses();
}

}  // namespace fake
