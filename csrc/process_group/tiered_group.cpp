#include "process_group/tiered_group.hpp"

#include <utility>

#include "core/dtype.hpp"

namespace papilio::pg {

Seq TieredGroup::submit(engine::AllreduceRequest request, std::optional<Duration> timeout,
                        engine::DoneFn done) {
  std::lock_guard lock(order_);
  if (auto share = std::exchange(request.share, std::nullopt)) {
    request.combines = true;
    const Seq seq = whole_->submit(std::move(request), timeout, std::move(done));
    whole_->combined(seq, std::move(*share));
    return seq;
  }
  request.combines = worthwhile(request.shape);
  const Seq seq = whole_->submit(request, timeout, std::move(done));
  if (!request.combines) return seq;
  // Not a reference that keeps the group: its handle must not end on the progress thread.
  host_->combine(seq, request, timeout,
                 [whole = std::weak_ptr(whole_), seq](fault::HostShare share) {
                   if (const auto group = whole.lock()) group->combined(seq, std::move(share));
                 });
  return seq;
}

Seq TieredGroup::submit(engine::StrictRequest request, std::optional<Duration> timeout,
                        engine::DoneFn done) {
  std::lock_guard lock(order_);
  return whole_->submit(std::move(request), timeout, std::move(done));
}

bool TieredGroup::worthwhile(const RoundShape& shape) {
  return shape.numel * elementSize(shape.dtype) >= kLeastBytes;
}

void TieredGroup::cancel(Seq seq, fault::ErrorKind kind, const std::string& text) {
  whole_->cancel(seq, kind, text);
  host_->cancel(seq, text);
}

void TieredGroup::abort(const std::string& why) {
  if (device_) device_->leave();
  host_->abort(why);
  whole_->abort(why);
}

void TieredGroup::leave() {
  if (device_) device_->leave();
  host_->leave();
  whole_->leave();
}

void TieredGroup::retire() {
  if (device_) device_->leave();
  host_->leave();
  whole_->retire();
}

void TieredGroup::ban(Rank rank, const std::string& reason, std::optional<Duration> term) {
  host_->ban(rank, reason, term);
  whole_->ban(rank, reason, term);
}

void TieredGroup::unban(Rank rank) {
  host_->unban(rank);
  whole_->unban(rank);
}

engine::StatsMap TieredGroup::stats() {
  auto out = whole_->stats();
  for (const auto& [name, value] : host_->stats()) out["host." + name] = value;
  return out;
}

}  // namespace papilio::pg
