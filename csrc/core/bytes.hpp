// Little-endian cursor over a fixed buffer. Reading past the end sets a sticky error instead of
// touching memory; nothing here allocates by a size that came from outside.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace papilio {

static_assert(std::endian::native == std::endian::little, "the wire format is little-endian");

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <class T>
  T read() {
    T value{};
    if (rest_.size() < sizeof(T)) {
      failed_ = true;
      rest_ = {};
      return value;
    }
    std::memcpy(&value, rest_.data(), sizeof(T));
    rest_ = rest_.subspan(sizeof(T));
    return value;
  }
  // Text with a u16 length in front; longer than `limit` is an error.
  std::string readText(std::size_t limit) {
    const auto length = read<std::uint16_t>();
    if (failed_ || length > limit || rest_.size() < length) {
      failed_ = true;
      return {};
    }
    std::string out(reinterpret_cast<const char*>(rest_.data()), length);
    rest_ = rest_.subspan(length);
    return out;
  }
  bool failed() const { return failed_; }
  // What was read makes no sense: everything else fails too.
  void fail() {
    failed_ = true;
    rest_ = {};
  }
  // True when everything was read and nothing was missing.
  bool exhausted() const { return !failed_ && rest_.empty(); }

 private:
  std::span<const std::byte> rest_;
  bool failed_ = false;
};

class ByteWriter {
 public:
  template <class T>
  void write(T value) {
    const auto at = out_.size();
    out_.resize(at + sizeof(T));
    std::memcpy(out_.data() + at, &value, sizeof(T));
  }
  void writeText(std::string_view text, std::size_t limit) {
    const auto length = static_cast<std::uint16_t>(text.size() < limit ? text.size() : limit);
    write(length);
    const auto at = out_.size();
    out_.resize(at + length);
    if (length != 0) std::memcpy(out_.data() + at, text.data(), length);
  }
  std::vector<std::byte> take() { return std::move(out_); }

 private:
  std::vector<std::byte> out_;
};

}  // namespace papilio
