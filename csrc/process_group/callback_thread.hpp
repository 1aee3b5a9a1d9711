// Runs what must not run on the progress thread: completion of futures, release of tensors, log
// lines, Python event handlers. In order, one at a time.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace papilio::pg {

class CallbackThread {
 public:
  CallbackThread();
  ~CallbackThread();

  // From any thread; never blocks for longer than a queue operation. After stop() the job runs at
  // once in the calling thread.
  void post(std::function<void()> job);
  // Runs what is queued, then ends the thread. Not from a job.
  void stop();

 private:
  void main();
  static void run(const std::function<void()>& job);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::function<void()>> jobs_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace papilio::pg
