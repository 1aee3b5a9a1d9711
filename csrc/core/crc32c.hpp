// CRC32C (Castagnoli), with the hardware instruction where the processor has it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace papilio {

// CRC of `bytes` continuing from `crc` (0 to start).
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t crc = 0);
// Copies and returns the CRC of what was copied: one pass over the source.
std::uint32_t copyWithCrc32c(std::byte* to, std::span<const std::byte> from);
// The table-driven twin, always available; equal to crc32c bit for bit.
std::uint32_t crc32cPortable(std::span<const std::byte> bytes, std::uint32_t crc = 0);

}  // namespace papilio
