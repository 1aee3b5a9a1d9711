#include "fault/arrival.hpp"

#include <algorithm>

namespace papilio::fault {

void ArrivalPolicy::addLag(Duration lag) {
  lags_[next_] = std::max(lag, Duration::zero());
  next_ = (next_ + 1) % kWindow;
  count_ = std::min(count_ + 1, kWindow);
  stale_ = stale_ || next_ % 16 == 0;  // a quantile of 256 hardly moves with one sample
}

Duration ArrivalPolicy::budget() const {
  if (clean_rounds_ < kProfileRounds || count_ == 0) return patience_;
  if (stale_) {
    auto sorted = lags_;
    const auto at = static_cast<std::ptrdiff_t>((count_ - 1) * 95 / 100);
    std::nth_element(sorted.begin(), sorted.begin() + at,
                     sorted.begin() + static_cast<std::ptrdiff_t>(count_));
    cached_ = 3 * sorted[static_cast<std::size_t>(at)];
    stale_ = false;
  }
  return std::clamp(cached_, std::min(floor_, patience_), patience_);
}

}  // namespace papilio::fault
