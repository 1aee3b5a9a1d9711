#include "process_group/monitored_barrier.hpp"

#include <condition_variable>
#include <limits>
#include <mutex>
#include <optional>
#include <vector>

namespace papilio::pg {

namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr std::byte kPassed{1};
constexpr std::byte kFailed{2};
// What others wait for rank 0's answer beyond their own limit: it names the culprit.
constexpr milliseconds kAnswerTime{500};
constexpr milliseconds kSlack{1000};        // for the engine to notice a deadline by itself
constexpr std::chrono::seconds kCancel{5};  // for the engine to let go of the memory

// Tags below zero are ours; two per barrier.
std::int32_t tagOf(std::uint32_t number, bool answer) {
  const auto offset = static_cast<std::int32_t>((number & 0x1fffffffU) * 2 + (answer ? 1 : 0));
  return std::numeric_limits<std::int32_t>::min() + offset;
}

// One-byte messages under way. Their memory lives until the engine has let go of it.
class Bytes {
 public:
  Bytes(std::shared_ptr<engine::Group> group, std::size_t count)
      : group_(std::move(group)), state_(std::make_shared<State>(count)), seqs_(count) {}
  ~Bytes() { cancelOpen(); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;

  void send(std::size_t i, Rank to, std::int32_t tag, std::byte value, milliseconds timeout) {
    state_->bytes[i] = value;
    start(i, to, tag, true, timeout);
  }
  void receive(std::size_t i, Rank from, std::int32_t tag, milliseconds timeout) {
    start(i, from, tag, false, timeout);
  }
  // The error it ended with; deadline_exceeded when it has not ended by then.
  fault::RoundError wait(std::size_t i, Clock::time_point until) {
    std::unique_lock lock(state_->mutex);
    const bool ended =
        state_->ended.wait_until(lock, until, [&] { return state_->errors[i].has_value(); });
    if (ended) return *state_->errors[i];
    fault::RoundError late;
    late.kind = fault::ErrorKind::deadline_exceeded;
    return late;
  }
  bool arrived(std::size_t i) {
    std::lock_guard lock(state_->mutex);
    return state_->errors[i] && !*state_->errors[i];
  }
  std::byte value(std::size_t i) const { return state_->bytes[i]; }

 private:
  struct State {
    explicit State(std::size_t count) : bytes(count), errors(count) {}
    std::mutex mutex;
    std::condition_variable ended;
    std::vector<std::byte> bytes;
    std::vector<std::optional<fault::RoundError>> errors;  // nullopt: under way
  };

  void start(std::size_t i, Rank peer, std::int32_t tag, bool sends, milliseconds timeout) {
    engine::MessageRequest request;
    request.sends = sends;
    request.peer = peer;
    request.tag = tag;
    request.data = &state_->bytes[i];
    request.bytes = 1;
    request.shape.kind = OpKind::message;
    request.shape.dtype = DType::uint8;
    request.shape.numel = 1;
    seqs_[i] = group_->submit(request, timeout, [state = state_, i](const auto& completion) {
      std::lock_guard lock(state->mutex);
      state->errors[i] = completion.error;
      state->ended.notify_all();
    });
  }

  void cancelOpen() {
    for (std::size_t i = 0; i < seqs_.size(); ++i) {
      if (!seqs_[i]) continue;
      if (wait(i, Clock::now()).kind != fault::ErrorKind::deadline_exceeded) continue;
      group_->cancel(*seqs_[i], fault::ErrorKind::aborted, "the monitored barrier is over");
    }
    const auto until = Clock::now() + kCancel;
    for (std::size_t i = 0; i < seqs_.size(); ++i) {
      if (seqs_[i]) wait(i, until);
    }
  }

  std::shared_ptr<engine::Group> group_;
  std::shared_ptr<State> state_;
  std::vector<std::optional<Seq>> seqs_;
};

std::string listed(const ContributorSet& ranks) {
  std::string out;
  std::size_t count = 0;
  ranks.forEach([&](Rank rank) { out += (count++ == 0 ? "" : ", ") + std::to_string(rank.value); });
  return (count == 1 ? "Rank " : "Ranks ") + out;
}

}  // namespace

void MonitoredBarrier::fail(fault::RoundError error, std::string text) const {
  if (error.kind == fault::ErrorKind::aborted) {  // here: nobody else is to blame
    error.ranks = {};
    text = "monitoredBarrier was given up";
  }
  error.text = text + (error.text.empty() ? "" : ": " + error.text);
  std::rethrow_exception(makeException(context, Seq{number}, error));
}

void MonitoredBarrier::run() const {
  const std::string me = "Rank " + std::to_string(context.rank.value);
  if (limit.count() <= 0) {
    fault::RoundError error;
    error.kind = fault::ErrorKind::deadline_exceeded;
    fail(error, me + " timed out in monitoredBarrier after 0 ms");
  }
  if (context.size == 1) return;
  if (context.rank.value == 0) {
    lead();
  } else {
    follow();
  }
}

void MonitoredBarrier::lead() const {
  const auto until = Clock::now() + limit + kSlack;
  Bytes reports(group, context.size);
  for (std::uint32_t r = 1; r < context.size; ++r) {
    reports.receive(r, Rank{r}, tagOf(number, false), limit);
  }
  fault::RoundError error;
  for (std::uint32_t r = 1; r < context.size; ++r) {
    auto theirs = reports.wait(r, until);
    if (!theirs) continue;
    if (!error) error = theirs;
    error.ranks.insert(Rank{r});
    if (!wait_all_ranks) break;
  }
  Bytes answers(group, context.size);
  for (std::uint32_t r = 1; r < context.size; ++r) {
    if (reports.arrived(r)) {
      answers.send(r, Rank{r}, tagOf(number, true), error ? kFailed : kPassed, limit);
    }
  }
  for (std::uint32_t r = 1; r < context.size; ++r) {
    if (!reports.arrived(r)) continue;
    const auto theirs = answers.wait(r, Clock::now() + (error ? kAnswerTime : limit + kSlack));
    if (!theirs || error) continue;
    error = theirs;
    error.ranks.insert(Rank{r});
  }
  if (!error) return;
  fail(error, listed(error.ranks) + " failed to pass monitoredBarrier in " +
                  std::to_string(limit.count()) + " ms");
}

void MonitoredBarrier::follow() const {
  Bytes messages(group, 2);
  messages.receive(0, Rank{0}, tagOf(number, true), limit + kAnswerTime);
  messages.send(1, Rank{0}, tagOf(number, false), kPassed, limit + kAnswerTime);
  auto error = messages.wait(0, Clock::now() + limit + kAnswerTime + kSlack);
  if (!error && messages.value(0) == kPassed) return;
  if (!error) {
    error.kind = fault::ErrorKind::deadline_exceeded;
    error.text = "it misses other ranks, which its own error names";
  }
  error.ranks.insert(Rank{0});
  fail(error, "Rank " + std::to_string(context.rank.value) +
                  " successfully reached monitoredBarrier, but received errors while waiting for "
                  "send/recv from rank 0");
}

}  // namespace papilio::pg
