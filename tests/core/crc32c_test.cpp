// The hardware and the table-driven checksum agree with each other and with RFC 3720.
#include "core/crc32c.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string_view>
#include <vector>

namespace papilio {
namespace {

std::vector<std::byte> randomBytes(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> out(size);
  for (auto& byte : out) byte = static_cast<std::byte>(random());
  return out;
}

TEST(Crc32c, KnownValues) {
  const std::string_view digits = "123456789";
  EXPECT_EQ(crc32c(std::as_bytes(std::span(digits))), 0xe3069283u);
  const std::vector<std::byte> zeros(32);
  EXPECT_EQ(crc32c(zeros), 0x8a9136aau);  // RFC 3720 B.4
  EXPECT_EQ(crc32c({}), 0u);
}

TEST(Crc32c, HardwareEqualsTableForAllLengthsAndOffsets) {
  const auto bytes = randomBytes(8192, 1);
  for (std::size_t size = 0; size < 200; ++size) {
    const std::span<const std::byte> part(bytes.data() + size % 7, size);
    ASSERT_EQ(crc32c(part), crc32cPortable(part)) << size;
  }
  for (const std::size_t size : {3071, 3072, 3073, 6144, 8000}) {
    const std::span<const std::byte> part(bytes.data() + 1, size);
    ASSERT_EQ(crc32c(part), crc32cPortable(part)) << size;
  }
}

TEST(Crc32c, FoldedLengthsAndOffsetsEqualTheTable) {
  const auto bytes = randomBytes(6000, 3);
  for (std::size_t size = 480; size < 5200; size += size < 1100 ? 1 : 37) {
    const std::span<const std::byte> part(bytes.data() + size % 67, size);
    ASSERT_EQ(crc32c(part, 0x12345678), crc32cPortable(part, 0x12345678)) << size;
    std::vector<std::byte> copy(size + 64, std::byte{0xee});
    ASSERT_EQ(copyWithCrc32c(copy.data(), part), crc32cPortable(part)) << size;
    ASSERT_TRUE(std::equal(part.begin(), part.end(), copy.begin())) << size;
    for (std::size_t i = size; i < copy.size(); ++i) ASSERT_EQ(copy[i], std::byte{0xee}) << size;
  }
}

TEST(Crc32c, ContinuesAndCopies) {
  const auto bytes = randomBytes(50000, 2);
  const std::span<const std::byte> all(bytes);
  EXPECT_EQ(crc32c(all.subspan(12345), crc32c(all.first(12345))), crc32c(all));
  std::vector<std::byte> copy(bytes.size(), std::byte{0xee});
  EXPECT_EQ(copyWithCrc32c(copy.data(), all), crc32c(all));
  EXPECT_EQ(copy, bytes);
}

}  // namespace
}  // namespace papilio
