#include "process_group/abort_hooks_run.hpp"

#include <utility>

namespace papilio::pg {

namespace {

void runAll(const AbortHooksRun::Hooks& hooks) {
  for (const auto& [id, hook] : hooks) {
    try {
      (*hook)();
    } catch (const std::exception& error) {
      TORCH_WARN("papilio: an abort hook failed: ", error.what());
    }
  }
}

}  // namespace

AbortHooksRun::AbortHooksRun(Hooks hooks) {
  if (hooks.empty()) return;
  std::packaged_task<void()> task([hooks = std::move(hooks)] { runAll(hooks); });
  done_ = task.get_future();
  thread_ = std::thread(std::move(task));
}

AbortHooksRun::~AbortHooksRun() {
  if (thread_.joinable()) thread_.detach();
}

bool AbortHooksRun::wait(std::chrono::seconds limit) {
  if (!done_.valid()) return true;
  if (done_.wait_for(limit) != std::future_status::ready) return false;
  if (thread_.joinable()) thread_.join();
  return true;
}

}  // namespace papilio::pg
