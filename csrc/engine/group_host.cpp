// Rounds that begin when the ranks of this host have combined their data (docs/adr/0012).
#include <algorithm>
#include <cstring>

#include "engine/group_runtime.hpp"
#include "engine/kernels.hpp"

namespace papilio::engine {

namespace {
// Results kept for rounds that this rank is about to begin. Beyond that they are as if they had
// been lost on the way: their reducers keep them.
constexpr std::uint64_t kEarlyLimit = 64ULL << 20;
}  // namespace

void GroupRuntime::allreduce(Seq seq, const AllreduceRequest& request, Duration timeout,
                             Clock::time_point issued, DoneFn done) {
  if (queue_.empty() && !request.combines) {
    return beginAllreduce(seq, request, timeout, issued, std::move(done), {});
  }
  Queued& entry = queue_[seq];
  entry.waits = request.combines;
  entry.data = static_cast<std::byte*>(request.data);
  entry.shape = request.shape;
  entry.done = std::move(done);
  entry.begin = [this, seq, request, timeout, issued](Queued& self) {
    const Duration left = timeout - (Clock::now() - issued);
    beginAllreduce(seq, request, std::max<Duration>(left, 1ms), issued, std::move(self.done),
                   std::move(self.share));
  };
  tellCombining();
}

void GroupRuntime::strict(Seq seq, StrictRequest request, Duration timeout,
                          Clock::time_point issued, DoneFn done) {
  if (queue_.empty()) return beginStrict(seq, std::move(request), timeout, issued, std::move(done));
  Queued& entry = queue_[seq];
  entry.shape = request.shape;
  entry.done = std::move(done);
  entry.begin = [this, seq, request = std::move(request), timeout, issued](Queued& self) mutable {
    beginStrict(seq, std::move(request), timeout, issued, std::move(self.done));
  };
}

// Others may ask why this rank does not come.
void GroupRuntime::tellCombining() {
  const bool waits = !queue_.empty() && queue_.begin()->second.waits;
  machine_.combining(waits ? std::optional(queue_.begin()->first) : std::nullopt);
}

void GroupRuntime::combined(Seq seq, fault::HostShare share) {
  const auto it = queue_.find(seq);
  if (it == queue_.end()) return;
  it->second.waits = false;
  it->second.share = std::move(share);
  beginReady();
}

void GroupRuntime::beginReady() {
  while (!queue_.empty() && !queue_.begin()->second.waits) {
    auto node = queue_.extract(queue_.begin());
    Queued& entry = node.mapped();
    if (entry.ended == fault::ErrorKind::none) {
      entry.begin(entry);
    } else {
      const auto kind = entry.ended;
      const std::string why = entry.why;
      endQueued(node.key(), std::move(entry), kind, why);
    }
  }
  tellCombining();
}

void GroupRuntime::endQueued(Seq seq, Queued entry, fault::ErrorKind kind,
                             const std::string& text) {
  makeWhole(entry.share.ranges, entry.shape, entry.data, 0, entry.shape.numel);
  Completion completion;
  completion.seq = seq;
  completion.report.seq = seq;
  completion.report.shape = entry.shape;
  completion.report.outcome = fault::Outcome::local;
  completion.error.kind = kind;
  completion.error.text = text;
  if (entry.done) entry.done(completion);
}

void GroupRuntime::endQueue(fault::ErrorKind kind, const std::string& text) {
  for (auto& [seq, entry] : std::exchange(queue_, {})) {
    endQueued(seq, std::move(entry), kind, text);
  }
}

// Sums of several ranks become what the user may see: their mean, or that times n.
void GroupRuntime::makeWhole(const std::vector<fault::ReportChunk>& ranges, const RoundShape& shape,
                             std::byte* data, std::uint64_t start, std::uint64_t stop) const {
  const std::uint64_t size = elementSize(shape.dtype);
  for (const auto& range : ranges) {
    const auto first = std::max(range.start, start);
    const auto last = std::min(range.stop, stop);
    if (first >= last) continue;
    const double over = fault::combinedIsSum(shape.dtype) ? range.weight : 1.0;
    const double times =
        shape.op == ReduceOp::avg ? 1.0 : static_cast<double>(config_.size) * shape.premul;
    const Factor factor = over > 0 ? Factor{times, over} : Factor{0.0, 1.0};
    scale(shape.dtype, data + first * size, last - first, factor);
  }
}

void GroupRuntime::keepEarly(Rank from, const DataHeader& header,
                             std::span<const std::byte> payload) {
  if (early_bytes_ + payload.size() > kEarlyLimit) return;
  if (payload.empty() || payload.size() > BlockPool::kLargest) return;
  BlockRef block = host_.pool().allocate(static_cast<std::uint32_t>(payload.size()));
  std::memcpy(block.data(), payload.data(), payload.size());
  early_bytes_ += payload.size();
  early_.push_back({from, header, std::move(block)});
}

void GroupRuntime::takeEarly(Seq seq) {
  if (early_.empty()) return;
  std::deque<Early> now;
  std::deque<Early> later;
  for (auto& one : early_) {
    if (one.header.seq > seq) {
      later.push_back(std::move(one));
      continue;
    }
    early_bytes_ -= one.payload.size();
    if (one.header.seq == seq) now.push_back(std::move(one));
  }
  early_ = std::move(later);
  for (const auto& one : now) message(one.from, one.header, one.payload.view());
}

}  // namespace papilio::engine
