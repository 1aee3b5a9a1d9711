// What one rank does in one round by reference. Before it: its elements go into its memory, where
// the others can read them. The round itself, which the engine runs with a table of references as
// its data, says whose elements count. After it: each contributor averages its part of the elements
// of all of them, and everybody copies the parts together.
//
// Nobody depends on another rank any more by then: who does not find a part in time averages it
// itself from the same memory, which gives the same bits. A reader that was stopped for so long
// that memory has been used again notices, and keeps its own elements.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "core/contributor_set.hpp"
#include "core/dtype.hpp"
#include "device_lane/lane.hpp"

namespace papilio::device {

class Round {
 public:
  struct Shape {
    DType dtype = DType::float32;
    std::uint64_t numel = 0;
    std::uint64_t bytes() const { return numel * elementSize(dtype); }
  };
  // times / over * the sum of the weighted elements.
  struct Factor {
    double times = 1.0;
    double over = 1.0;
  };
  struct Decision {
    Seq seq;
    ContributorSet contributors;  // empty: this rank's own elements stand
    ReferenceTable rows{};
    Factor factor;
  };

  // Issuing thread: enqueues the copy of `elements` on `stream`. May wait for memory, see
  // Lane::reserve().
  Round(std::shared_ptr<Lane> lane, Shape shape, const std::byte* elements, Stream stream);
  ~Round();
  Round(const Round&) = delete;
  Round& operator=(const Round&) = delete;

  // The following is for one thread at a time, whose current device is the lane's. Nothing waits.

  // The elements are in this rank's memory, and `elements` is not used any more.
  bool staged() { return staged_->done(); }
  // Then: the table with this rank's row.
  ReferenceTable table() const;

  // It was round `seq`, and ends with an error, now or after begin(). Others may use its elements
  // all the same.
  void failed(Seq seq);

  // Once: begins to bring the result to `out`, which may be in host memory that the device can
  // write. `own`: the factor with which the own elements stand when there is no result. Throws
  // std::runtime_error.
  void begin(const Decision& decision, Factor own, std::byte* out, Stream stream);
  enum class State : std::uint8_t {
    running,
    average,  // `out` holds the average
    own,      // `out` holds the own elements
  };
  // Goes on. After another answer than `running`, nothing here uses any memory. Throws as begin().
  State poll();
  // Says why, when it is `own` though there were contributors.
  const std::string& why() const { return why_; }

  // Below that every rank averages all of it: one wait less.
  static constexpr std::uint64_t kWholeBytes = 256 * 1024;
  // How long a part that another rank averages is waited for.
  static constexpr std::chrono::milliseconds kPartPatience{20};

 private:
  using Clock = Lane::Clock;
  enum class Step : std::uint8_t { staging, averaging, gathering, finishing, restoring, over };
  struct Range {
    std::uint64_t start = 0;
    std::uint64_t stop = 0;
  };
  struct Member {
    Rank rank;
    Lane::Source source;
    bool missing = true;  // its part is not in `out`
  };

  std::uint64_t partElements(std::uint32_t parts) const;
  Range partOf(std::size_t index) const;
  void findMembers();
  void average(Range range, std::byte* out);
  void copy(const std::byte* from, std::byte* to, std::uint64_t numel, Factor factor);
  void averageOwnPart(std::size_t index);
  void gather();
  void finish();
  void restore(const std::string& why);
  bool stillValid() const;
  void release();
  State end(State state);

  const std::shared_ptr<Lane> lane_;
  const Shape shape_;
  const Lane::Use use_;
  const std::shared_ptr<unsigned> nonfinite_;
  const std::shared_ptr<Event> staged_;
  const std::shared_ptr<Event> part_;
  const std::shared_ptr<Event> last_;
  Decision decision_;
  Factor own_;
  std::byte* out_ = nullptr;
  Stream stream_ = nullptr;
  Step step_ = Step::staging;
  std::vector<Member> members_;
  std::uint64_t members_word_ = 0;
  Clock::time_point give_up_;  // on the parts of others
  std::string why_;
  bool released_ = false;
};

}  // namespace papilio::device
