#include "engine/test_hook.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstddef>
#include <stdexcept>

namespace papilio::engine {

namespace {

constexpr std::array<std::string_view, 4> kNames{"before", "contributing", "reducing", "returning"};

std::invalid_argument unknown(const char* text) {
  return std::invalid_argument(std::string("PAPILIO_TEST_HOOK='") + text +
                               "' is not phase:seq:path, e.g. reducing:3:/tmp/hook");
}

}  // namespace

std::optional<TestPhase> testPhase(std::string_view name) {
  for (std::size_t phase = 0; phase < kNames.size(); ++phase) {
    if (kNames[phase] == name) return static_cast<TestPhase>(phase);
  }
  return std::nullopt;
}

TestHook::TestHook(const char* text) {
  if (text == nullptr || *text == '\0') return;
  const std::string_view whole(text);
  const auto first = whole.find(':');
  const auto second = whole.find(':', first + 1);
  if (first == std::string_view::npos || second == std::string_view::npos) throw unknown(text);
  const auto phase = testPhase(whole.substr(0, first));
  std::uint64_t seq = 0;
  const auto [end, error] = std::from_chars(text + first + 1, text + second, seq);
  if (!phase || error != std::errc{} || end != text + second) throw unknown(text);
  phase_ = *phase;
  seq_ = Seq{seq};
  path_ = whole.substr(second + 1);
}

void TestHook::hold() {
  due_ = false;
  seq_ = Seq{0};  // once
  const int at = open((path_ + ".at").c_str(), O_WRONLY | O_CLOEXEC);
  const int go = open((path_ + ".go").c_str(), O_RDONLY | O_CLOEXEC);
  if (at >= 0 && go >= 0) {
    const std::string line = std::string(kNames[static_cast<std::size_t>(phase_)]) + "\n";
    char byte = 0;
    if (write(at, line.data(), line.size()) > 0) static_cast<void>(!read(go, &byte, 1));
  }
  if (at >= 0) close(at);
  if (go >= 0) close(go);
}

}  // namespace papilio::engine
