#include "process_group/callback_thread.hpp"

#include <pthread.h>

#include <cstdio>
#include <exception>

namespace papilio::pg {

CallbackThread::CallbackThread() : thread_([this] { main(); }) {}

CallbackThread::~CallbackThread() { stop(); }

void CallbackThread::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void CallbackThread::post(std::function<void()> job) {
  {
    std::lock_guard lock(mutex_);
    if (!stopping_) {
      jobs_.push_back(std::move(job));
      changed_.notify_one();
      return;
    }
  }
  run(job);
}

// The thread outlives whatever a callback throws; what it throws is nobody's but the log's.
void CallbackThread::run(const std::function<void()>& job) {
  try {
    job();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "papilio: a callback failed: %s\n", error.what());
  }
}

void CallbackThread::main() {
  pthread_setname_np(pthread_self(), "papilio-callbk");
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    std::vector<std::function<void()>> jobs;
    jobs.swap(jobs_);
    lock.unlock();
    for (auto& job : jobs) run(job);
    jobs.clear();
    lock.lock();
  }
}

}  // namespace papilio::pg
