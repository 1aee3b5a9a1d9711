// A set of ranks of one group: fixed size, no allocation, ordered iteration.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <vector>

#include "core/ids.hpp"

namespace papilio {

class ContributorSet {
 public:
  static constexpr std::uint32_t kWords = kMaxRanks / 64;

  constexpr ContributorSet() = default;

  static ContributorSet firstN(std::uint32_t n) {
    ContributorSet set;
    for (std::uint32_t i = 0; i < n; ++i) set.insert(Rank{i});
    return set;
  }

  void insert(Rank rank) { words_[rank.value / 64] |= bit(rank); }
  void erase(Rank rank) { words_[rank.value / 64] &= ~bit(rank); }
  bool contains(Rank rank) const {
    return rank.value < kMaxRanks && (words_[rank.value / 64] & bit(rank)) != 0;
  }
  std::uint32_t count() const {
    std::uint32_t total = 0;
    for (auto word : words_) total += static_cast<std::uint32_t>(std::popcount(word));
    return total;
  }
  bool empty() const {
    std::uint64_t any = 0;
    for (auto word : words_) any |= word;
    return any == 0;
  }

  ContributorSet operator|(const ContributorSet& other) const { return merged(other, Op::either); }
  ContributorSet operator&(const ContributorSet& other) const { return merged(other, Op::both); }
  ContributorSet operator-(const ContributorSet& other) const { return merged(other, Op::without); }
  bool operator==(const ContributorSet&) const = default;

  // Calls fn(Rank) in ascending order.
  template <class Fn>
  void forEach(Fn&& fn) const {
    for (std::uint32_t w = 0; w < kWords; ++w) {
      for (auto word = words_[w]; word != 0; word &= word - 1) {
        fn(Rank{w * 64 + static_cast<std::uint32_t>(std::countr_zero(word))});
      }
    }
  }
  std::vector<Rank> ranks() const {
    std::vector<Rank> out;
    forEach([&](Rank rank) { out.push_back(rank); });
    return out;
  }

  // The words travel in RESULT messages, lowest ranks first.
  const std::array<std::uint64_t, kWords>& words() const { return words_; }
  void setWord(std::uint32_t index, std::uint64_t word) { words_[index] = word; }

 private:
  enum class Op { either, both, without };
  static std::uint64_t bit(Rank rank) { return std::uint64_t{1} << (rank.value % 64); }
  ContributorSet merged(const ContributorSet& other, Op op) const {
    ContributorSet out;
    for (std::uint32_t w = 0; w < kWords; ++w) {
      const auto a = words_[w], b = other.words_[w];
      out.words_[w] = op == Op::either ? (a | b) : op == Op::both ? (a & b) : (a & ~b);
    }
    return out;
  }

  std::array<std::uint64_t, kWords> words_{};
};

}  // namespace papilio
