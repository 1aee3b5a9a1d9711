// What a backend keeps about all its works together: how many are under way, who wants to hear when
// one completes, extensions of the timeout, the last error. Thread-safe; shared with the works.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "process_group/errors.hpp"

namespace papilio::pg {

class WorkLedger {
 public:
  using Hook = std::function<void(std::shared_ptr<c10d::WorkInfo>)>;
  // Completion key of the work, and how long it took in milliseconds.
  using Observer = std::function<void(std::uint64_t key, float duration)>;
  using Clock = std::chrono::steady_clock;

  // One work: its number (1, 2, … in order of issue) and the timeout it really has.
  struct Entry {
    std::uint64_t number = 0;
    std::chrono::milliseconds timeout{0};
  };

  // Issuing thread: a work with this timeout begins. Exactly one close() has to follow.
  Entry open(std::chrono::milliseconds timeout);
  // Progress thread, before anybody can see that the work is complete.
  void ended(const Entry& entry, const fault::RoundError& error);
  // Callback threads: runs the hook (if the work was issued at all), then counts the work off.
  void close(const std::shared_ptr<c10d::WorkInfo>& info);

  // Called for every work that ends from now on, however it ends, one at a time.
  void setHook(std::shared_ptr<Hook> hook);
  bool hasHook() const { return has_hook_; }
  // Told of every work that ends well, once, on a callback thread, one at a time, without the
  // interpreter's lock.
  void addObserver(std::int64_t id, Observer observer);
  void removeObserver(std::int64_t id);
  // A work whose newKey() this is ended well.
  void completed(std::uint64_t key, Clock::duration duration);
  // Of a work in this process; never used again.
  static std::uint64_t newKey();
  // Until every work that was issued has been through close(). Each of them has a timeout of its
  // own, so this ends, at the latest `kMargin` after the last one. False: it took longer.
  bool waitAll();
  // A collective whose wait() had made a stream wait failed later: somebody has to be told.
  struct Unseen {
    std::uint64_t key = 0;  // newKey() of its work
    ErrorContext context;
    Seq seq;
    fault::RoundError error;
  };
  void failedUnseen(Unseen unseen);
  // The first of them since the last call.
  std::optional<Unseen> takeUnseen();
  // Somebody has asked that work.
  void seen(std::uint64_t key);
  // Longer timeouts for the works that begin from now on, until the first of them has ended.
  void extend(std::chrono::milliseconds by);

  c10d::ErrorType error() const { return error_; }
  void setError(c10d::ErrorType error) { error_ = error; }

  static constexpr std::chrono::seconds kMargin{30};

 private:
  struct Extension {
    std::chrono::milliseconds by;
    std::uint64_t first;  // number of the work that ends it
  };

  std::mutex telling_;  // held around hooks and observers; never taken with mutex_ held
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t opened_ = 0;
  std::uint64_t closed_ = 0;
  Clock::time_point latest_;  // when the last of the open works must have ended
  std::vector<Extension> extensions_;
  std::optional<Unseen> unseen_;
  std::shared_ptr<Hook> hook_;
  std::map<std::int64_t, std::shared_ptr<Observer>> observers_;
  std::atomic<bool> has_observers_{false};
  std::atomic<bool> has_hook_{false};
  std::atomic<c10d::ErrorType> error_{c10d::ErrorType::SUCCESS};
};

}  // namespace papilio::pg
