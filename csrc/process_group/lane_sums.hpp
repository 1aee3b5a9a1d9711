// Sums of a host's tensors in device memory that its ranks share (Options.host_backend="papilio" on
// several hosts): the host's group decides by a round by reference whose elements count, then the
// device lane adds them up, straight into host memory. A dead or slow rank costs itself.
#pragma once

#include <memory>
#include <vector>

#include "process_group/device_lanes.hpp"
#include "process_group/host_sum.hpp"

namespace papilio::pg {

class LaneSums final : public HostSums {
 public:
  // `members`: ranks of the whole group, by their rank in `group`, the one of this host.
  LaneSums(std::shared_ptr<engine::Group> group, std::vector<Rank> members,
           std::shared_ptr<DeviceLanes> lanes)
      : group_(std::move(group)), members_(std::move(members)), lanes_(std::move(lanes)) {}

  std::shared_ptr<HostSum> begin(const at::Tensor& tensor, const RoundShape& shape) override;
  void leave() override { lanes_->leave(); }

 private:
  const std::shared_ptr<engine::Group> group_;
  const std::vector<Rank> members_;
  const std::shared_ptr<DeviceLanes> lanes_;
};

}  // namespace papilio::pg
