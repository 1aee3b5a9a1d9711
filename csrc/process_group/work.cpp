#include "process_group/work.hpp"

#include <ATen/core/ivalue_inl.h>
#include <c10/core/StreamGuard.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "process_group/interpreter.hpp"

namespace papilio::pg {

namespace {

// How long wait() gives the engine beyond the collective's own timeout before it steps in.
constexpr auto kMargin = WorkLedger::kMargin;
constexpr std::chrono::seconds kCancelLimit{5};

c10d::WorkResult resultOf(const fault::RoundError& error) {
  if (!error) return c10d::WorkResult::SUCCESS;
  return error.kind == fault::ErrorKind::deadline_exceeded ? c10d::WorkResult::TIMEOUT
                                                           : c10d::WorkResult::COMM_ERROR;
}

std::vector<c10::Device> devicesOf(const std::shared_ptr<DeviceOp>& device) {
  if (!device) return {};
  return {device->stream().device()};
}

}  // namespace

WorkPapilio::WorkPapilio(ErrorContext context, c10d::OpType type, const char* title,
                         std::uint64_t number, std::vector<at::Tensor> outputs,
                         std::vector<at::Tensor> keep, std::shared_ptr<WorkLedger> ledger,
                         std::chrono::milliseconds timeout, bool timed,
                         std::shared_ptr<DeviceOp> device)
    : Work(static_cast<int>(context.rank.value), type, title, keep),
      context_(std::move(context)),
      outputs_(std::move(outputs)),
      keep_(std::move(keep)),
      ledger_(std::move(ledger)),
      entry_(ledger_->open(timeout)),
      timed_(timed),
      number_(number),
      started_(WorkLedger::Clock::now()),
      device_(std::move(device)),
      future_(c10::make_intrusive<c10::ivalue::Future>(
          c10::ListType::create(c10::TensorType::get()), devicesOf(device_))),
      result_future_(c10::make_intrusive<c10::ivalue::Future>(c10::IntType::get())) {}

WorkPapilio::~WorkPapilio() {
  if (!completed_) ledger_->close(nullptr);  // never submitted
}

void WorkPapilio::issued(std::shared_ptr<engine::Group> group, Seq seq) {
  std::lock_guard lock(mutex_);
  group_ = std::move(group);
  seq_ = seq;
}

std::uint64_t WorkPapilio::getSequencenumber() const {
  if (number_ != 0) return number_;
  std::lock_guard lock(mutex_);
  return seq_.value & ~engine::kMessageNumbers;
}

engine::DoneFn WorkPapilio::completer(std::shared_ptr<CallbackThreads> callbacks) {
  using Self = c10::intrusive_ptr<WorkPapilio>;
  // The last reference must not be dropped on the progress thread: releasing a tensor may need the
  // interpreter lock. So the reference moves on to the callback threads.
  auto self = std::make_shared<Self>(Self::unsafe_reclaim_from_nonowning(this));
  return [self, callbacks = std::move(callbacks)](const engine::Completion& completion) {
    WorkPapilio& work = **self;
    if (!work.complete(completion, *self)) return;  // `work` may be gone
    callbacks->post([work = std::move(*self)] { work->publish(); });
  };
}

// Would nobody notice whether it is published a moment later? A callback thread costs every small
// collective a change of threads, which is most of its time.
bool WorkPapilio::untold() const {
  return !future_taken_ && !recordFunctionEndCallback_ && !ledger_->hasHook();
}

bool WorkPapilio::complete(const engine::Completion& completion,
                           c10::intrusive_ptr<WorkPapilio>& self) {
  ledger_->ended(entry_, completion.error);
  // Under the lock to the end: a thread in wait() may drop the last reference as soon as it can.
  std::lock_guard lock(mutex_);
  finished_ = WorkLedger::Clock::now();
  completion_ = completion;
  seq_ = completion.seq;
  completed_ = true;
  ended_.store(true);
  // Whoever sees the result finds its report.
  if (device_ && !completion.error) device_->ended();
  const bool left = waiting_ > 0 && untold();
  if (left) unpublished_ = std::move(self);
  cv_.notify_all();
  return !left;
}

c10::intrusive_ptr<c10::ivalue::Future> WorkPapilio::getFuture() {
  std::lock_guard lock(mutex_);
  future_taken_ = true;
  return future_;
}

c10::intrusive_ptr<c10::ivalue::Future> WorkPapilio::getFutureResult() {
  std::lock_guard lock(mutex_);
  future_taken_ = true;
  return result_future_;
}

void WorkPapilio::publish() {
  if (!device_) return settle();
  const bool good = !completion_->error;  // it does not change any more
  std::unique_lock lock(mutex_);
  const bool unseen = !good && followed_;
  lock.unlock();
  // Before the stream goes on: who has seen its end is told by the next collective for sure.
  if (unseen) ledger_->failedUnseen({key_, context_, seq_, completion_->error});
  device_->finish(good);
  // Whoever waits for the future continues after what is in the current stream now.
  const c10::StreamGuard guard(device_->stream());
  settle();
}

void WorkPapilio::settle() {
  const auto& error = completion_->error;
  if (recordFunctionEndCallback_) {
    recordFunctionEndCallback_();
    recordFunctionEndCallback_ = nullptr;
  }
  keep_.clear();
  result_future_->markCompleted(c10::IValue(static_cast<std::int64_t>(resultOf(error))));
  if (error) {
    future_->setError(makeException(context_, seq_, error));
  } else {
    future_->markCompleted(c10::IValue(outputs_));
    ledger_->completed(key_, finished_ - started_);
  }
  ledger_->close(ledger_->hasHook()
                     ? std::make_shared<c10d::WorkInfo>(retrieveOpType(), getSequencenumber(),
                                                        started_, finished_, finished_ - started_)
                     : nullptr);
}

bool WorkPapilio::isCompleted() {
  std::lock_guard lock(mutex_);
  return completed_ && (!device_ || completion_->error || device_->done());
}

bool WorkPapilio::isSuccess() const {
  std::lock_guard lock(mutex_);
  return completed_ && !completion_->error && (!device_ || device_->done());
}

std::exception_ptr WorkPapilio::exception() const {
  std::unique_lock lock(mutex_);
  if (!completed_ || !completion_->error) return nullptr;
  const auto error = completion_->error;
  lock.unlock();
  ledger_->seen(key_);
  return makeException(context_, seq_, error);
}

void WorkPapilio::cancelAndWait(const std::string& why) {
  std::shared_ptr<engine::Group> group;
  Seq seq;
  {
    std::lock_guard lock(mutex_);
    group = group_;
    seq = seq_;
  }
  if (group) group->cancel(seq, fault::ErrorKind::deadline_exceeded, why);
  std::unique_lock lock(mutex_);
  cv_.wait_for(lock, kCancelLimit, [&] { return completed_; });
}

bool WorkPapilio::wait(std::chrono::milliseconds timeout) {
  // Who calls these two asks for something that only the host can know.
  const auto type = retrieveOpType();
  const bool for_host =
      type == c10d::OpType::BARRIER || type == c10d::OpType::RECVANYSOURCE || timeout != kNoTimeout;
  const bool on_stream = device_ && !for_host;
  if (on_stream && followOnDevice()) {
    synchronize();
    return true;
  }
  const auto error = waitOnHost(timeout);
  if (device_) device_->follow();
  synchronize();
  if (error) {
    ledger_->seen(key_);
    std::rethrow_exception(makeException(context_, seq_, error));
  }
  return true;
}

void WorkPapilio::blockCurrentStream() {
  if (!device_) return Work::blockCurrentStream();
  if (!followOnDevice()) wait();
}

// False: it has failed already, and wait() says so.
bool WorkPapilio::followOnDevice() {
  std::unique_lock lock(mutex_);
  if (completed_ && completion_->error) return false;
  followed_ = true;
  lock.unlock();
  device_->follow();
  return true;
}

fault::RoundError WorkPapilio::waitOnHost(std::chrono::milliseconds timeout) {
  const bool own = timeout == kNoTimeout;
  const auto limit = own ? entry_.timeout + kMargin : timeout;
  const auto end = WorkLedger::Clock::now() + limit;
  CallbackThreads::mayBlock();
  std::unique_lock lock(mutex_);
  ++waiting_;
  if (const auto group = group_; group && !device_ && !completed_) {
    lock.unlock();
    group->drive([this] { return ended_.load(); }, limit);
    lock.lock();
  }
  if (!cv_.wait_until(lock, end, [&] { return completed_; })) {
    lock.unlock();
    cancelAndWait("Timed out after " + std::to_string(limit.count()) +
                  " ms, before timing out "
                  "nothing came from the ranks named");
    lock.lock();
  }
  fault::RoundError error;
  if (completed_) {
    error = completion_->error;
  } else {
    error.kind = fault::ErrorKind::deadline_exceeded;
    error.text = group_ || !device_ ? "the progress thread of this process does not answer"
                                    : "Timed out: the device has not done yet what comes before "
                                      "it in the stream that it was issued on";
  }
  --waiting_;
  const auto mine = std::move(unpublished_);
  lock.unlock();
  if (mine) {
    const auto unlocked = releaseInterpreter();  // observers may be waiting for each other
    mine->publish();
  }
  return error;
}

int WorkPapilio::sourceRank() const {
  std::lock_guard lock(mutex_);
  TORCH_CHECK(completion_ && completion_->peer, "papilio: only a received message has a source");
  return static_cast<int>(completion_->peer->value);
}

void WorkPapilio::synchronize() {
  if (c10d::allow_inflight_collective_as_graph_input()) {
    c10d::unregister_work(c10::intrusive_ptr<WorkPapilio>::unsafe_reclaim_from_nonowning(this));
  }
}

void WorkPapilio::abort() {
  std::shared_ptr<engine::Group> group;
  {
    std::lock_guard lock(mutex_);
    group = group_;
  }
  if (group) group->cancel(seq_, fault::ErrorKind::aborted, "the work was aborted");
}

float WorkPapilio::getDuration() const {
  std::lock_guard lock(mutex_);
  TORCH_CHECK(timed_, "papilio: call enableCollectivesTiming before the collective is issued");
  TORCH_CHECK(completed_, "papilio: the collective has not completed");
  return static_cast<float>(toSeconds(completion_->report.elapsed) * 1000.0);
}

std::optional<fault::Report> WorkPapilio::report() const {
  std::lock_guard lock(mutex_);
  if (!completion_) return std::nullopt;
  return completion_->report;
}

}  // namespace papilio::pg
