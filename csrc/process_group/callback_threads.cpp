#include "process_group/callback_threads.hpp"

#include <pthread.h>

#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <exception>
#include <mutex>
#include <utility>

namespace papilio::pg {

// One thread, the server, takes jobs from the queue; the others are spare. When the server's job
// blocks, a spare thread becomes the server, and the old one is spare once its job has ended.
struct CallbackThreads::Shared {
  std::mutex mutex;
  std::condition_variable work;   // for the idle server
  std::condition_variable spare;  // for the spare threads
  std::condition_variable ended;  // for stop()
  std::deque<std::function<void()>> jobs;
  std::uint64_t reign = 0;    // servers so far
  std::uint64_t started = 0;  // jobs so far
  bool busy = false;          // the server runs a job
  bool may_block = false;     // that job has said that it may block
  bool watched = false;       // a spare thread looks at the server every kPatience
  bool stopping = false;
  std::size_t spares = 0;
  std::size_t alive = 0;
  std::vector<std::thread> threads;

  void watch(bool now);
  bool waitForReign(std::unique_lock<std::mutex>& lock);
  void serve(std::unique_lock<std::mutex>& lock);
};

namespace {

// The thread outlives whatever a callback throws; what it throws is nobody's but the log's.
void run(const std::function<void()>& job) {
  try {
    job();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "papilio: a callback failed: %s\n", error.what());
  }
}

}  // namespace

// Of the thread that runs, if it is one of ours, and the reign in which it served last.
thread_local CallbackThreads::Shared* CallbackThreads::current_ = nullptr;
thread_local std::uint64_t CallbackThreads::current_reign_ = 0;

// A job waits behind another one: somebody should see whether that one ends. `now`: it is known to
// block. Wakes a spare thread once in kPatience at most otherwise.
void CallbackThreads::Shared::watch(bool now) {
  if (watched && !now) return;
  watched = true;
  spare.notify_one();
}

// As a spare thread, until it becomes the server. False: there will be no more jobs.
bool CallbackThreads::Shared::waitForReign(std::unique_lock<std::mutex>& lock) {
  ++spares;
  auto seen = started - 1;
  while (reign != 0) {
    if (busy && !jobs.empty()) {
      if (may_block || seen == started) break;
      seen = started;
      spare.wait_for(lock, kPatience);
    } else if (stopping && jobs.empty() && !busy) {
      --spares;
      return false;
    } else {
      watched = false;
      spare.wait(lock);
      seen = started - 1;
    }
  }
  --spares;
  ++reign;
  busy = may_block = watched = false;  // nobody watches this server yet
  return true;
}

// As the server: until another thread has taken over, or all is done.
void CallbackThreads::Shared::serve(std::unique_lock<std::mutex>& lock) {
  const auto mine = current_reign_ = reign;
  while (reign == mine) {
    work.wait(lock, [&] { return stopping || !jobs.empty(); });
    if (jobs.empty()) return;
    auto job = std::move(jobs.front());
    jobs.pop_front();
    busy = true;
    ++started;
    if (!jobs.empty()) watch(false);
    lock.unlock();
    run(job);
    job = nullptr;  // what it holds may need the interpreter: not under the lock
    lock.lock();
    if (reign == mine) busy = may_block = false;
  }
}

CallbackThreads::CallbackThreads() : shared_(std::make_shared<Shared>()) {
  std::lock_guard lock(shared_->mutex);
  spawn(shared_);  // the server, which starts a spare one
}

CallbackThreads::~CallbackThreads() { stop(); }

void CallbackThreads::spawn(const std::shared_ptr<Shared>& shared) {
  ++shared->alive;
  shared->threads.emplace_back([shared] { main(shared); });
}

void CallbackThreads::main(const std::shared_ptr<Shared>& shared) {
  pthread_setname_np(pthread_self(), "papilio-callbk");
  current_ = shared.get();
  std::unique_lock lock(shared->mutex);
  while (shared->waitForReign(lock)) {
    if (shared->spares == 0 && shared->alive < kMost) spawn(shared);
    shared->serve(lock);
    if (shared->stopping) shared->spare.notify_all();
  }
  --shared->alive;
  shared->ended.notify_all();
}

void CallbackThreads::post(std::function<void()> job) {
  {
    std::lock_guard lock(shared_->mutex);
    if (!shared_->stopping) {
      shared_->jobs.push_back(std::move(job));
      if (shared_->busy) {
        shared_->watch(shared_->may_block);
      } else {
        shared_->work.notify_one();
      }
      return;
    }
  }
  run(job);
}

void CallbackThreads::mayBlock() {
  if (current_ == nullptr) return;
  std::lock_guard lock(current_->mutex);
  if (current_->reign != current_reign_) return;  // somebody else serves already
  current_->may_block = true;
  if (!current_->jobs.empty()) current_->watch(true);
}

bool CallbackThreads::stop(std::chrono::milliseconds limit) {
  std::vector<std::thread> threads;
  bool all = false;
  {
    std::unique_lock lock(shared_->mutex);
    if (shared_->threads.empty()) return shared_->alive == 0;  // stopped before
    shared_->stopping = true;
    shared_->work.notify_one();
    shared_->spare.notify_all();
    all = shared_->ended.wait_for(lock, limit, [&] { return shared_->alive == 0; });
    threads.swap(shared_->threads);
  }
  for (auto& thread : threads) {
    if (all) {
      thread.join();
    } else {
      thread.detach();
    }
  }
  return all;
}

std::size_t CallbackThreads::threads() const {
  std::lock_guard lock(shared_->mutex);
  return shared_->alive;
}

}  // namespace papilio::pg
