// The streams, events and gates of the fake device. A stream is a thread that does what is
// enqueued, in order, after a random little while; so what is not ordered happens in any order.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "process_group/fake_device/clocks.hpp"

namespace fake {

struct Event {
  std::uint64_t asked = 0;  // records that were enqueued
  std::uint64_t done = 0;
  Clock clock;  // of the last one done
};

// Holds a stream until it is opened.
struct Gate {
  bool open = false;
  Clock clock;  // of whom opened it
};

class Device {
 public:
  static Device& instance();

  std::int64_t newStream();
  std::int64_t current() const;  // of the calling thread
  std::int64_t exchangeCurrent(std::int64_t stream);

  // Work on a stream; `uses` are checked and logged just before it is done.
  struct Touch {
    const void* data;
    std::size_t bytes;
    bool writes;
  };
  void enqueue(std::int64_t stream, std::string what, std::vector<Touch> uses,
               std::function<void()> work);
  void record(const std::shared_ptr<Event>& event, std::int64_t stream);
  void block(const std::shared_ptr<Event>& event, std::int64_t stream);
  bool query(const std::shared_ptr<Event>& event);
  void synchronize(const std::shared_ptr<Event>& event);
  void synchronizeStream(std::int64_t stream);
  bool idle(std::int64_t stream);
  std::shared_ptr<Gate> hold(std::int64_t stream);
  void open(const std::shared_ptr<Gate>& gate);

  // Memory is never given back: who uses it too late finds the poison of its release. That of the
  // device belongs to the stream that was current when it was allocated, as with torch's caching
  // allocator: its release comes after what is enqueued there.
  void* allocate(std::size_t bytes, bool pinned);
  void release(void* data);
  // Memory from elsewhere that belongs to the device for good.
  void adopt(void* data, std::size_t bytes);
  bool pinned(const void* data);

  // What the program did that works here by luck only.
  std::vector<std::string> races();
  void complain(const std::string& what);
  std::uint64_t uses();
  bool capturing = false;

 private:
  struct Step {
    Clock issued;
    std::function<bool()> ready;  // null: at once
    std::function<void()> run;    // with the mutex held
    std::function<void()> work;   // without it
  };
  struct Stream {
    std::deque<Step> steps;
    Clock clock;
    bool busy = false;
  };

  Device();
  void main(std::int64_t stream);
  void push(std::int64_t stream, Step step);
  Clock& host();  // of the calling thread
  std::size_t hostActor() const;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Stream>> streams_;
  Clock hosts_[2];  // the thread that made the device, and all others together
  const std::thread::id first_;
  Memory memory_;
  struct Block {
    std::size_t bytes = 0;
    std::int64_t stream = 0;
    bool pinned = false;
  };
  std::map<const void*, Block> blocks_;
  std::mt19937 random_{1};
};

}  // namespace fake
