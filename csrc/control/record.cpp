#include "control/record.hpp"

#include <array>
#include <charconv>
#include <cstdio>
#include <optional>
#include <stdexcept>

#include "control/control_plane.hpp"

namespace papilio::control {

namespace {

constexpr const char* kRecordWord = "papilio2";

template <class Number>
bool parseNumber(std::string_view text, int base, Number& out) {
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), out, base);
  return parsed.ec == std::errc{} && parsed.ptr == text.data() + text.size();
}

std::optional<Record> tryParse(std::string_view text) {
  const auto first = text.find(' ');
  const auto third = text.rfind(' ');
  if (first == std::string_view::npos || third == first) return std::nullopt;
  const auto second = text.rfind(' ', third - 1);
  if (second == first) return std::nullopt;
  if (text.substr(0, first) != kRecordWord) return std::nullopt;
  const auto place = text.substr(first + 1, second - first - 1);
  const auto colon = place.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  Record out;
  std::error_code error;
  const auto address = asio::ip::make_address(place.substr(0, colon), error);
  std::uint16_t port = 0;
  if (error || !parseNumber(place.substr(colon + 1), 10, port) || port == 0) return std::nullopt;
  if (!parseNumber(text.substr(second + 1, third - second - 1), 16, out.process.value) ||
      !parseNumber(text.substr(third + 1), 16, out.host)) {
    return std::nullopt;
  }
  out.endpoint = {address, port};
  return out;
}

}  // namespace

std::string formatRecord(const std::string& address_and_port, ProcessId process,
                         std::uint64_t host) {
  std::array<char, 40> id{};
  std::snprintf(id.data(), id.size(), "%016llx %016llx",
                static_cast<unsigned long long>(process.value),
                static_cast<unsigned long long>(host));
  return std::string(kRecordWord) + " " + address_and_port + " " + id.data();
}

Record parseRecord(const std::string& text) {
  if (const auto record = tryParse(text)) return *record;
  throw std::invalid_argument("'" + text.substr(0, 200) + "' is no address record of papilio");
}

std::uint64_t hostOf(const std::string& record) { return parseRecord(record).host; }

}  // namespace papilio::control
