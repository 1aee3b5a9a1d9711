// In the place of NCCL, for the fake device: all_reduce on a stream of its own, through a backend
// of the CPU. Like NCCL it is strict: a rank that does not come is waited for, one that died is an
// error.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

namespace fake {

class StandIn final : public c10d::Backend {
 public:
  explicit StandIn(c10::intrusive_ptr<c10d::Backend> inner);
  const std::string getBackendName() const override { return "stand-in"; }
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions& options) override;
  // When it returns, nothing is written any more.
  void abort() override;
  static int sums() { return sums_; }  // that were made in this process

 private:
  const c10::intrusive_ptr<c10d::Backend> inner_;
  std::mutex mutex_;
  std::vector<std::int64_t> streams_;
  static std::atomic<int> sums_;
};

}  // namespace fake
