#include "process_group/lane_sums.hpp"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <mutex>
#include <optional>

#include "core/reference.hpp"
#include "device_lane/round.hpp"
#include "process_group/engine_combiner.hpp"

namespace papilio::pg {

namespace {

class LaneSum final : public HostSum {
 public:
  LaneSum(std::shared_ptr<engine::Group> group, std::vector<Rank> members,
          std::shared_ptr<device::Lane> lane, const at::Tensor& tensor, const RoundShape& shape)
      : group_(std::move(group)),
        members_(std::move(members)),
        device_(tensor.device()),
        shape_(shape),
        answer_(std::make_shared<Answer>()),
        round_(std::move(lane), {shape.dtype, shape.numel},
               static_cast<const std::byte*>(tensor.const_data_ptr()), currentStream()) {}
  ~LaneSum() override {
    std::lock_guard lock(answer_->mutex);
    if (answer_->completion) round_.failed(answer_->completion->seq);
  }

  State look() override {
    if (!submitted_) {
      if (round_.staged()) submit();
      return State::running;
    }
    std::lock_guard lock(answer_->mutex);
    if (!answer_->completion) return State::running;
    return combined(*answer_->completion) ? State::there : State::failed;
  }

  bool copyTo(const at::Tensor& host) override {
    const auto& completion = *answer_->completion;
    const auto& chunk = completion.report.chunks.at(0);
    device::Round::Decision decision;
    decision.seq = completion.seq;
    decision.contributors = chunk.contributors;
    decision.rows = answer_->table;
    if (!fault::combinedIsSum(shape_.dtype)) decision.factor.over = chunk.weight;
    try {
      round_.begin(decision, {}, static_cast<std::byte*>(host.data_ptr()), currentStream());
      return true;
    } catch (const std::exception& error) {
      warn(error.what());
      return false;
    }
  }

  bool arrived() override {
    try {
      const auto state = round_.poll();
      if (state == device::Round::State::running) return false;
      good_ = state == device::Round::State::average;
      if (!good_) warn(round_.why());
    } catch (const std::exception& error) {
      warn(error.what());
    }
    return true;
  }

  fault::HostShare share() const override {
    return good_ ? shareOf(*answer_->completion, members_) : fault::HostShare{};
  }

 private:
  struct Answer {  // also of the engine
    ReferenceTable table{};
    std::mutex mutex;
    std::optional<engine::Completion> completion;
  };

  device::Stream currentStream() const {
    return c10::impl::VirtualGuardImpl(device_.type()).getStream(device_).native_handle();
  }

  void submit() {
    submitted_ = true;
    answer_->table = round_.table();
    engine::AllreduceRequest request;
    request.data = answer_->table.data();
    request.shape = shape_;
    request.by_reference = true;
    group_->submit(request, std::nullopt, [answer = answer_](const engine::Completion& done) {
      std::lock_guard lock(answer->mutex);
      answer->completion = done;
    });
  }

  static bool combined(const engine::Completion& done) {
    if (done.error || done.report.chunks.size() != 1) return false;
    const auto& chunk = done.report.chunks[0];
    return chunk.source != fault::Source::local && !chunk.contributors.empty();
  }

  void warn(const std::string& why) const {
    TORCH_WARN("papilio: the sum of this host's tensors on ", device_, " could not be made: ", why,
               ". This rank takes part with its own gradient");
  }

  const std::shared_ptr<engine::Group> group_;
  const std::vector<Rank> members_;
  const c10::Device device_;
  const RoundShape shape_;
  const std::shared_ptr<Answer> answer_;
  device::Round round_;
  bool submitted_ = false;
  bool good_ = false;
};

}  // namespace

std::shared_ptr<HostSum> LaneSums::begin(const at::Tensor& tensor, const RoundShape& shape) {
  return std::make_shared<LaneSum>(group_, members_, lanes_->on(tensor.device()), tensor, shape);
}

}  // namespace papilio::pg
