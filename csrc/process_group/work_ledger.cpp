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
  // Without the lock: it may issue a collective, and needs the interpreter.
  if (hook && info) {
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

bool WorkLedger::waitAll() {
  std::unique_lock lock(mutex_);
  const auto issued = opened_;
  const auto until = std::max(latest_, Clock::now()) + kMargin;
  return changed_.wait_until(lock, until, [&] { return closed_ >= issued; });
}

void WorkLedger::extend(std::chrono::milliseconds by) {
  std::lock_guard lock(mutex_);
  extensions_.push_back({by, opened_ + 1});
}

}  // namespace papilio::pg
