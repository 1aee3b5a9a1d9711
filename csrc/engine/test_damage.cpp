#include "engine/test_damage.hpp"

#include <charconv>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>

namespace papilio::engine {

namespace {

std::invalid_argument unknown(const char* text) {
  return std::invalid_argument(std::string("PAPILIO_TEST_DAMAGE='") + text +
                               "' is not phase:seq:copies, e.g. returning:3:1");
}

template <class Number>
Number number(std::string_view digits, const char* text) {
  Number out = 0;
  const auto [end, error] = std::from_chars(digits.begin(), digits.end(), out);
  if (error != std::errc{} || end != digits.end() || out == 0) throw unknown(text);
  return out;
}

}  // namespace

TestDamage::TestDamage(const char* text) {
  if (text == nullptr || *text == '\0') return;
  const std::string_view whole(text);
  const auto first = whole.find(':');
  const auto second = first == std::string_view::npos ? first : whole.find(':', first + 1);
  if (second == std::string_view::npos) throw unknown(text);
  const auto phase = testPhase(whole.substr(0, first));
  if (phase != TestPhase::contributing && phase != TestPhase::returning) throw unknown(text);
  phase_ = *phase;
  copies_ = number<std::uint32_t>(whole.substr(second + 1), text);
  seq_ = Seq{number<std::uint64_t>(whole.substr(first + 1, second - first - 1), text)};
}

void TestDamage::damage(ChunkIndex chunk, Rank to, BlockPool& pool, BlockRef& payload) {
  std::uint32_t& sent = sent_[{to, chunk}];
  if (payload.size() == 0 || sent == copies_) return;
  ++sent;
  BlockRef copy = pool.allocate(payload.size());
  std::memcpy(copy.data(), payload.data(), payload.size());
  copy.data()[payload.size() / 2] ^= std::byte{1};
  payload = std::move(copy);
  ++bytes_;
}

}  // namespace papilio::engine
