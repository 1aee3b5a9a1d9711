// One collective on tensors of a device, as the device sees it: a stream that only it uses, and on
// that stream
//
//   caller's stream --event--> copies to the host --ready-->   when it is issued
//   [gate] --> copies back --done-->                           when it is over, or somebody waits
//
// Whoever waits before it is over gets the second part at once, behind a gate: a kernel of torch's
// that spins until the host opens it. Nothing has to be enqueued for that stream later, so a thread
// of the program that waits for the device inside of CUDA holds nothing up. Who does not wait costs
// no gate. A stream of its own lets a collective that ends early pass one issued before it.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "process_group/host_sum.hpp"
#include "process_group/lane_op.hpp"
#include "process_group/staged.hpp"

namespace c10d::cuda {
class StreamBlock;
}

namespace papilio::pg {

// What adds up a collective's one tensor first.
struct SumIssue {
  std::shared_ptr<HostSums> sums;
  RoundShape shape;
};

// When the ranks of a host add up their tensors on the device first (host_sum.hpp), the first
// part is the sum, on a second stream, because the copies of it follow late, and the other stream
// may be behind its gate by then:
//
//   caller's stream --event--> sum | when it is there --> copies to the host --ready-->
//
// By reference (lane_op.hpp) everything is on that second stream, and nothing but the gate and the
// end on the other.
class DeviceOp {
 public:
  // Enqueues the first part behind the caller's current stream. `keep`: lives as long as this.
  DeviceOp(Staged staged, std::vector<at::Tensor> keep, c10::Stream stream);
  // With a sum of its one tensor first, on `sum_stream`.
  DeviceOp(Staged staged, std::vector<at::Tensor> keep, c10::Stream stream, c10::Stream sum_stream,
           const SumIssue& sum);
  // By reference: `staged` holds no tensor, nothing goes to the host.
  DeviceOp(Staged staged, std::vector<at::Tensor> keep, c10::Stream stream, c10::Stream lane_stream,
           LaneIssue by_reference);
  ~DeviceOp();
  DeviceOp(const DeviceOp&) = delete;
  DeviceOp& operator=(const DeviceOp&) = delete;

  const c10::Stream& stream() const { return stream_; }
  // That, and the one of the sum.
  std::vector<c10::Stream> streams() const;
  std::uint64_t bytes() const { return staged_.bytes(); }

  // Null: it goes through host memory.
  LaneOp* lane() const { return lane_.get(); }
  // The inputs are in host memory, or where others can read them. For one thread.
  bool ready();
  // Then: whose data they are, if not the own ones. Nullopt: there was to be no sum.
  std::optional<fault::HostShare> share() const;
  // The outputs are in the memory of the device; nothing uses tensors or host memory any more.
  bool done() const { return second_part_ && done_.query() && (!lane_ || lane_->over()); }
  // What the current stream of the calling thread gets from now on begins after that.
  void follow();
  // The engine's thread: it ended well, host memory holds the result. Never waits.
  void ended();
  // Afterwards and however it ended: another thread.
  void finish(bool good);

 private:
  void enqueueSecondPart(bool gated);
  bool takeSum();
  void takeOwn();

  const Staged staged_;
  const std::vector<at::Tensor> keep_;
  const c10::Stream stream_;
  const c10::Stream sum_stream_;  // the same, if there is no sum and it is not by reference
  std::unique_ptr<LaneOp> lane_;
  std::shared_ptr<HostSum> sum_;      // while it may be of use
  bool summed_ = false;               // there was to be one
  std::atomic<bool> in_host_{false};  // copies to host memory are enqueued
  c10::Event ready_;
  c10::Event done_;
  std::mutex mutex_;  // held while the second part is enqueued; not by ended()
  std::unique_ptr<c10d::cuda::StreamBlock> gate_;
  std::atomic<c10d::cuda::StreamBlock*> closed_{nullptr};  // gate_, for ended()
  std::atomic<bool> ended_{false};                         // host memory does not change any more
  std::atomic<bool> second_part_{false};
};

}  // namespace papilio::pg
