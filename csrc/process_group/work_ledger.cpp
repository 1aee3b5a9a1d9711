#include "process_group/work_ledger.hpp"

#include <algorithm>
#include <utility>

namespace papilio::pg {

namespace {

c10d::ErrorType errorTypeOf(fault::ErrorKind kind) {
  switch (kind) {
    case fault::ErrorKind::none: return c10d::ErrorType::SUCCESS;
    case fault::ErrorKind::deadline_exceeded: return c10d::ErrorType::TIMEOUT;
    case fault::ErrorKind::peer_failed: return c10d::ErrorType::REMOTE_ERROR;
    default: return c10d::ErrorType::COMM_ERROR;
  }
}

}  // namespace

WorkLedger::Entry WorkLedger::open(std::chrono::milliseconds timeout) {
  std::lock_guard lock(mutex_);
  Entry entry{++opened_, timeout};
  for (const auto& extension : extensions_) entry.timeout += extension.by;
  latest_ = std::max(latest_, Clock::now() + entry.timeout);
  return entry;
}

void WorkLedger::ended(const Entry& entry, const fault::RoundError& error) {
  if (error) error_ = errorTypeOf(error.kind);
  std::lock_guard lock(mutex_);
  std::erase_if(extensions_, [&](const auto& item) { return item.first == entry.number; });
}

void WorkLedger::close(const std::shared_ptr<c10d::WorkInfo>& info) {
  std::shared_ptr<Hook> hook;
  {
    std::lock_guard lock(mutex_);
    hook = hook_;
  }
  // Without mutex_: it may issue a collective, and needs the interpreter.
  if (hook && info) {
    std::lock_guard telling(telling_);
    try {
      (*hook)(info);
    } catch (const std::exception& error) {
      TORCH_WARN("papilio: a completion hook failed: ", error.what());
    }
  }
  std::lock_guard lock(mutex_);
  ++closed_;
  changed_.notify_all();
}

void WorkLedger::setHook(std::shared_ptr<Hook> hook) {
  std::lock_guard lock(mutex_);
  TORCH_CHECK_VALUE(hook_ == nullptr, "papilio: the group has a completion hook already");
  TORCH_CHECK_VALUE(hook != nullptr && *hook != nullptr,
                    "papilio: a completion hook must be a function");
  hook_ = std::move(hook);
  has_hook_ = true;
}

void WorkLedger::addObserver(std::int64_t id, Observer observer) {
  auto held = std::make_shared<Observer>(std::move(observer));
  std::lock_guard lock(mutex_);
  observers_[id].swap(held);
  has_observers_ = true;
}

void WorkLedger::removeObserver(std::int64_t id) {
  std::shared_ptr<Observer> held;  // dropped without the lock
  std::lock_guard lock(mutex_);
  if (const auto found = observers_.find(id); found != observers_.end()) {
    held.swap(found->second);
    observers_.erase(found);
  }
  has_observers_ = !observers_.empty();
}

void WorkLedger::completed(std::uint64_t key, Clock::duration duration) {
  if (!has_observers_) return;
  std::map<std::int64_t, std::shared_ptr<Observer>> observers;
  {
    std::lock_guard lock(mutex_);
    observers = observers_;
  }
  const float milliseconds = std::chrono::duration<float, std::milli>(duration).count();
  // Without mutex_, which an observer may need to go away.
  std::lock_guard telling(telling_);
  for (const auto& [id, observer] : observers) {
    try {
      (*observer)(key, milliseconds);
    } catch (const std::exception& error) {
      TORCH_WARN("papilio: a completion hook failed: ", error.what());
    }
  }
}

std::uint64_t WorkLedger::newKey() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

bool WorkLedger::waitAll() {
  std::unique_lock lock(mutex_);
  const auto issued = opened_;
  const auto until = std::max(latest_, Clock::now()) + kMargin;
  return changed_.wait_until(lock, until, [&] { return closed_ >= issued; });
}

void WorkLedger::failedUnseen(Unseen unseen) {
  std::lock_guard lock(mutex_);
  if (!unseen_) unseen_ = std::move(unseen);
}

std::optional<WorkLedger::Unseen> WorkLedger::takeUnseen() {
  std::lock_guard lock(mutex_);
  return std::exchange(unseen_, std::nullopt);
}

void WorkLedger::seen(std::uint64_t key) {
  std::lock_guard lock(mutex_);
  if (unseen_ && unseen_->key == key) unseen_.reset();
}

void WorkLedger::extend(std::chrono::milliseconds by) {
  std::lock_guard lock(mutex_);
  extensions_.push_back({by, opened_ + 1});
}

}  // namespace papilio::pg
