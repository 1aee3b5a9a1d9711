// One chunk that rank 0 reduces, for the tests of Reduction.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>
#include <optional>

#include "fault/reduction.hpp"

namespace papilio::fault {

inline constexpr ChunkIndex kChunk{0};

inline ContributorSet ranks(std::initializer_list<std::uint32_t> list) {
  ContributorSet out;
  for (const auto r : list) out.insert(Rank{r});
  return out;
}

class ReductionFixture : public testing::Test {
 protected:
  explicit ReductionFixture(std::uint32_t size)
      : members_(size, Rank{0}, options_, 1), policy_(1s) {
    shape_.numel = 10;
    // A small tensor whose only chunk is this rank's duty.
    while (Layout(10, 4, size, Seq{seq_}).owner(kChunk) != Rank{0}) ++seq_;
    for (std::uint32_t r = 0; r < size; ++r) members_.at(Rank{r}).ever_contributed = true;
  }
  void begin() { reduction_.emplace(members_, policy_, Seq{seq_}, SchemaHash{5}, shape_); }
  const effect::Reduce* closed() const {
    for (const auto& effect : out_) {
      if (const auto* reduce = std::get_if<effect::Reduce>(&effect)) return reduce;
    }
    return nullptr;
  }

  GroupOptions options_;
  Members members_;
  ArrivalPolicy policy_;
  RoundShape shape_;
  std::uint64_t seq_ = 1;
  std::optional<Reduction> reduction_;
  Effects out_;
};

}  // namespace papilio::fault
