// Points of a round at which a test can hold a rank exactly (tests/chaos). Progress thread only.
//
// PAPILIO_TEST_HOOK=phase:seq:path, read once for each group. The first time that this rank is in
// that phase of its collective `seq`, its progress thread writes the phase to the FIFO `path`.at
// and stands still until a byte comes, or nobody is left to send one, from the FIFO `path`.go.
// Unset, which it is outside of tests, a phase costs one comparison.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/ids.hpp"

namespace papilio::engine {

enum class TestPhase : std::uint8_t {
  before,        // the call is here, nothing of it has been sent
  contributing,  // one contribution has been given to the lane, the next ones have not
  reducing,      // all contributions to one chunk are here, it has not been reduced
  returning,     // one result has been given to the lane, the next ones have not
};

// By the name that it has above; nothing: there is no such phase.
std::optional<TestPhase> testPhase(std::string_view name);

class TestHook {
 public:
  // Throws std::invalid_argument for a text that it does not understand; nullptr: off.
  explicit TestHook(const char* text);

  void at(TestPhase phase, Seq seq) {
    if (seq == seq_ && phase == phase_) [[unlikely]] {
      hold();
    }
  }
  // As at(), as soon as what is being produced has been given to the lane: see posted().
  void whenPosted(TestPhase phase, Seq seq) {
    if (seq == seq_ && phase == phase_) [[unlikely]] {
      due_ = true;
    }
  }
  void posted() {
    if (due_) [[unlikely]] {
      hold();
    }
  }

 private:
  void hold();

  TestPhase phase_ = TestPhase::before;
  Seq seq_;  // 0: off; collectives count from 1
  bool due_ = false;
  std::string path_;
};

}  // namespace papilio::engine
