// Level 0 on a device (docs/adr/0012): the tensors of the ranks of this host are added up before
// the sum goes to host memory. By another backend (host_backend.hpp), or in memory that they share
// (lane_sums.hpp).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>

#include "engine/engine.hpp"

namespace papilio::pg {

// One sum. Except for share(), everything is for one thread at a time; nothing here waits for a
// device or another rank.
class HostSum {
 public:
  virtual ~HostSum() = default;
  enum class State : std::uint8_t { running, there, failed };
  virtual State look() = 0;
  // After `there`: enqueues what brings the sum to `host` (pinned) on the current stream. False:
  // that could not be done, the sum has failed.
  virtual bool copyTo(const at::Tensor& host) = 0;
  // When what was enqueued is done. False: there is more to come. True: `host` holds sums of the
  // weighted tensors, or weighted means (fault::combinedIsSum).
  virtual bool arrived() = 0;
  // Then. Empty: `host` is of no use, the own data is wanted.
  virtual fault::HostShare share() const = 0;
};

class HostSums {
 public:
  virtual ~HostSums() = default;
  // Issues the sum of `tensor` over the ranks of this host, behind what is in the current stream of
  // its device. Ranks call it in the same order. `tensor` is read by that stream only. Null: out of
  // order. The thread that calls may be made to wait.
  virtual std::shared_ptr<HostSum> begin(const at::Tensor& tensor, const RoundShape& shape) = 0;
  // From now on there are no sums; those under way end soon.
  virtual void leave() = 0;
};

}  // namespace papilio::pg
