// An all-reduce by reference (docs/adr/0015): this rank's elements are put where the others of the
// host can read them, the engine's round says whose count, then the average is made on the device.
// Only when that is done, the collective is over.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Stream.h>

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "core/reference.hpp"
#include "core/round_shape.hpp"
#include "device_lane/round.hpp"
#include "engine/engine.hpp"

namespace papilio::pg {

// What such a collective is, before it is issued.
struct LaneIssue {
  std::shared_ptr<device::Lane> lane;
  at::Tensor tensor;
  RoundShape shape;
  Rank me;
  std::uint32_t size = 1;  // of the group
  bool zero = false;       // what stands where there is no average: zeros, not the own elements

  // Larger ones go through the host: they would take several times as much memory of the device.
  static constexpr std::uint64_t kMostBytes = 256ULL << 20;
};

class LaneOp {
 public:
  // Enqueues what brings the elements to this rank's memory on `stream`. May wait for memory.
  LaneOp(LaneIssue issue, c10::Stream stream);

  // For the thread that looks after the device; nothing waits.
  bool ready() { return round_.staged(); }
  engine::AllreduceRequest request();
  // `done` of the submission: called when this is over. `wake`: it is worth a look at advance().
  engine::DoneFn completer(std::shared_ptr<engine::Group> group, engine::DoneFn done,
                           std::function<void()> wake);
  // False: nothing has changed.
  bool advance();
  // The memory of tensor and lane is not used any more, as far as is known on the host.
  bool over() const;
  // Ends it whatever the device does: with an error, or as the engine says when it does.
  void giveUp();

 private:
  struct Outcome {  // of the engine's round
    engine::Completion completion;
    engine::DoneFn done;
    std::shared_ptr<engine::Group> group;
  };

  void begin();
  void finish(device::Round::State state);
  void fail(const std::string& why);
  void tell();

  const LaneIssue issue_;
  const c10::Stream stream_;
  ReferenceTable table_{};  // the engine's until the round is over
  device::Round round_;
  mutable std::mutex mutex_;
  std::optional<Outcome> outcome_;
  bool begun_ = false;
  bool over_ = false;
};

}  // namespace papilio::pg
