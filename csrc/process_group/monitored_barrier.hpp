// The barrier that says who is missing: everybody reports to rank 0, which tells everybody how it
// went. Messages, not a collective, so that it works while collectives are stuck.
#pragma once

#include <chrono>
#include <memory>

#include "engine/engine.hpp"
#include "process_group/errors.hpp"

namespace papilio::pg {

struct MonitoredBarrier {
  std::shared_ptr<engine::Group> group;
  ErrorContext context;
  std::uint32_t number = 0;  // of this barrier in its group: no message of another one counts
  std::chrono::milliseconds limit{0};
  bool wait_all_ranks = false;  // name all that are missing, not only the first

  // Blocks for `limit` plus at most a few seconds when the engine does not answer. Throws
  // DeadlineExceeded or PeerFailed: on rank 0 with the ranks that did not come, elsewhere with rank
  // 0. A limit of 0 fails at once.
  void run() const;

 private:
  void lead() const;
  void follow() const;
  [[noreturn]] void fail(fault::RoundError error, std::string text) const;
};

}  // namespace papilio::pg
