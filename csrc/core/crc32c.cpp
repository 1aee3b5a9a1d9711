#include "core/crc32c.hpp"

#include <array>
#include <cstring>

#include "core/crc32c_fold.hpp"

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace papilio {
namespace {

constexpr std::uint32_t kPolynomial = 0x82f63b78;  // Castagnoli, reflected

constexpr std::array<std::uint32_t, 256> makeTable() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    table[i] = crc;
  }
  return table;
}
constexpr auto kTable = makeTable();

std::uint32_t portable(const std::byte* data, std::size_t size, std::uint32_t state) {
  for (std::size_t i = 0; i < size; ++i) {
    state = kTable[(state ^ static_cast<std::uint8_t>(data[i])) & 0xff] ^ (state >> 8);
  }
  return state;
}

#if defined(__x86_64__)

// The instruction has a latency of 3 cycles and a throughput of 1: three independent streams fill
// it. Their states are joined by shifting a state over kLane zero bytes, which is linear over GF(2)
// and therefore four table look-ups.
constexpr std::size_t kLane = 1024;

using ShiftTable = std::array<std::array<std::uint32_t, 256>, 4>;

ShiftTable makeShift(std::size_t zeros) {
  std::array<std::uint32_t, 32> basis{};
  for (int bit = 0; bit < 32; ++bit) {
    std::uint32_t state = std::uint32_t{1} << bit;
    for (std::size_t i = 0; i < zeros; ++i) state = kTable[state & 0xff] ^ (state >> 8);
    basis[bit] = state;
  }
  ShiftTable table{};
  for (int byte = 0; byte < 4; ++byte) {
    for (std::uint32_t value = 0; value < 256; ++value) {
      std::uint32_t out = 0;
      for (int bit = 0; bit < 8; ++bit) {
        if ((value >> bit & 1) != 0) out ^= basis[byte * 8 + bit];
      }
      table[byte][value] = out;
    }
  }
  return table;
}

std::uint32_t shifted(const ShiftTable& table, std::uint32_t state) {
  return table[0][state & 0xff] ^ table[1][state >> 8 & 0xff] ^ table[2][state >> 16 & 0xff] ^
         table[3][state >> 24];
}

__attribute__((target("sse4.2"))) inline std::uint64_t step(std::uint64_t state,
                                                            const std::byte* at) {
  std::uint64_t word;
  std::memcpy(&word, at, sizeof word);
  return _mm_crc32_u64(state, word);
}

__attribute__((target("sse4.2"))) std::uint32_t hardware(const std::byte* data, std::size_t size,
                                                         std::uint32_t state) {
  static const ShiftTable shift = makeShift(kLane);
  std::uint64_t a = state;
  while (size >= 3 * kLane) {
    std::uint64_t b = 0;
    std::uint64_t c = 0;
    for (std::size_t i = 0; i < kLane; i += 8) {
      a = step(a, data + i);
      b = step(b, data + kLane + i);
      c = step(c, data + 2 * kLane + i);
    }
    a = shifted(shift, static_cast<std::uint32_t>(a)) ^ b;
    a = shifted(shift, static_cast<std::uint32_t>(a)) ^ c;
    data += 3 * kLane;
    size -= 3 * kLane;
  }
  for (; size >= 8; data += 8, size -= 8) a = step(a, data);
  auto out = static_cast<std::uint32_t>(a);
  for (; size > 0; ++data, --size) out = _mm_crc32_u8(out, static_cast<std::uint8_t>(*data));
  return out;
}

bool hasInstruction() {
  static const bool has = __builtin_cpu_supports("sse4.2") != 0;
  return has;
}

#endif

std::uint32_t plain(const std::byte* data, std::size_t size, std::uint32_t state) {
#if defined(__x86_64__)
  if (hasInstruction()) return hardware(data, size, state);
#endif
  return portable(data, size, state);
}

// Below this the fold does not pay for its last 64 bytes.
constexpr std::size_t kFoldFrom = 2 * detail::kFoldBytes;

// Folds as much of `bytes` as it can, copying it to `to` unless that is null; returns how much.
std::size_t foldPart(std::span<const std::byte> bytes, std::byte* to, std::uint32_t& state) {
  if (bytes.size() < kFoldFrom || !detail::canFoldCrc32c()) return 0;
  const std::size_t part = bytes.size() / detail::kFoldBytes * detail::kFoldBytes;
  alignas(64) std::array<std::byte, 64> rest;
  detail::foldCrc32c(bytes.data(), part, state, to, rest.data());
  state = plain(rest.data(), rest.size(), 0);
  return part;
}

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t crc) {
  std::uint32_t state = ~crc;
  bytes = bytes.subspan(foldPart(bytes, nullptr, state));
  return ~plain(bytes.data(), bytes.size(), state);
}

std::uint32_t crc32cPortable(std::span<const std::byte> bytes, std::uint32_t crc) {
  return ~portable(bytes.data(), bytes.size(), ~crc);
}

std::uint32_t copyWithCrc32c(std::byte* to, std::span<const std::byte> from) {
  std::uint32_t state = ~std::uint32_t{0};
  const std::size_t part = foldPart(from, to, state);
  to += part;
  from = from.subspan(part);
  // Blocks that stay in the first-level cache: the checksum reads what the copy just touched.
  constexpr std::size_t kBlock = 12 * 1024;
  while (!from.empty()) {
    const auto block = from.first(from.size() < kBlock ? from.size() : kBlock);
    std::memcpy(to, block.data(), block.size());
    state = plain(block.data(), block.size(), state);
    to += block.size();
    from = from.subspan(block.size());
  }
  return ~state;
}

}  // namespace papilio
