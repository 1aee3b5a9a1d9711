// Sums of a host's tensors on devices by another c10d backend, NCCL for one (docs/adr/0012). It may
// be strict, so it is never waited for without a limit; when it fails, its sum is left alone and
// the ranks of this host take part with their own data, now and until the next view.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.hpp"
#include "process_group/host_sum.hpp"

namespace papilio::pg {

class BackendSum;

class HostBackend final : public HostSums, public std::enable_shared_from_this<HostBackend> {
 public:
  using Inner = c10::intrusive_ptr<c10d::Backend>;
  // Makes the backend, at the first tensor. May take the interpreter lock, and may throw.
  using Make = std::function<Inner()>;
  struct Config {
    std::string name;           // of the backend, for people
    std::vector<Rank> members;  // ranks of the whole group that share this host, ascending
    Rank me;
    float weight = 1.0F;
    std::uint64_t fingerprint = 0;  // of the model
    // For one sum, from when this rank's part is ready on its device.
    std::chrono::milliseconds limit{0};
  };
  HostBackend(Config config, Make make);

  // Null: the backend is out of order.
  std::shared_ptr<HostSum> begin(const at::Tensor& tensor, const RoundShape& shape) override;
  // From now on there are no sums; those under way fail. Why it is out of order is logged once.
  void fail(const std::string& why);
  void leave() override;
  std::string outOfOrder() const;

  const Config& config() const { return config_; }

 private:
  friend class BackendSum;
  Inner inner();
  // Ends what the backend still does, in the background; `keep` lives until that is over.
  void end(std::vector<at::Tensor> keep, c10::intrusive_ptr<c10d::Work> work);

  const Config config_;
  const Make make_;
  mutable std::mutex mutex_;
  Inner inner_;
  std::string broken_;
};

class BackendSum final : public HostSum {
 public:
  State look() override;
  bool copyTo(const at::Tensor& host) override;
  // Makes the mean of 16-bit tensors, on the host.
  bool arrived() override;
  // Empty: no rank of this host has finite numbers, or one of them trains another model: the round
  // with the own data finds out which.
  fault::HostShare share() const override;

 private:
  friend class HostBackend;
  BackendSum(std::shared_ptr<HostBackend> backend, const at::Tensor& tensor);
  State fail(const std::string& why);
  void enqueueCopies(const at::Tensor& host);

  using Clock = std::chrono::steady_clock;
  const std::shared_ptr<HostBackend> backend_;
  const DType dtype_;
  const std::int64_t numel_;
  const float model_;    // fingerprint, dtype and numel, as a number that float32 holds exactly
  c10::Event prepared_;  // this rank's part is ready
  std::optional<Clock::time_point> deadline_;
  // Sums of the weighted tensors in float32 (float64 for float64), then, by member, the weight with
  // which it is in there: -1 for one that was left out because of a NaN or an infinity; then, by
  // member, what it takes this tensor for (model_).
  at::Tensor sums_;
  at::Tensor values_;  // both parts on the host
  at::Tensor tail_;
  at::Tensor mean_of_;  // where the mean goes, if the values are not what is wanted
  c10::intrusive_ptr<c10d::Work> work_;
};

}  // namespace papilio::pg
