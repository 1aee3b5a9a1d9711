// Who has seen what: vector clocks over the streams of the fake device and the host, and a check
// that of two uses of the same memory, one of them a write, one comes after the other by the
// program, not by luck. Not thread-safe.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace fake {

// By actor (0 and 1: threads of the host, then the streams): how many of its steps are known.
class Clock {
 public:
  void join(const Clock& other) {
    if (other.steps_.size() > steps_.size()) steps_.resize(other.steps_.size());
    for (std::size_t i = 0; i < other.steps_.size(); ++i) {
      steps_[i] = std::max(steps_[i], other.steps_[i]);
    }
  }
  void step(std::size_t actor) {
    if (actor >= steps_.size()) steps_.resize(actor + 1);
    ++steps_[actor];
  }
  std::uint64_t of(std::size_t actor) const { return actor < steps_.size() ? steps_[actor] : 0; }

 private:
  std::vector<std::uint64_t> steps_;
};

struct Use {
  std::string what;
  std::size_t actor = 0;
  std::size_t begin = 0;  // bytes of the allocation
  std::size_t end = 0;
  bool writes = false;
};

class Memory {
 public:
  void allocated(const void* data, std::size_t bytes);
  // Ignores memory that it does not know.
  void used(const void* data, std::size_t bytes, bool writes, const std::string& what,
            std::size_t actor, const Clock& clock);
  // Uses by `owner` are its own affair: it gives the memory out again behind them.
  void freed(const void* data, std::size_t actor, const Clock& clock, std::size_t owner);
  void complain(const std::string& what) { races_.push_back(what); }
  const std::vector<std::string>& races() const { return races_; }
  std::uint64_t uses() const { return uses_; }

 private:
  struct Past {
    Use use;
    std::uint64_t step = 0;  // of its actor
  };
  struct Allocation {
    std::size_t bytes = 0;
    std::vector<Past> past;
  };
  void check(const Allocation& allocation, const Use& use, const Clock& clock);

  std::map<const std::byte*, Allocation> allocations_;
  std::vector<std::string> races_;
  std::uint64_t uses_ = 0;
};

}  // namespace fake
