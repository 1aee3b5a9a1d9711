// CRC32C by carry-less multiplication over 512-bit registers, for processors that have it: about
// twice the rate of the CRC instruction, and the copy rides along for free.
#pragma once

#include <cstddef>
#include <cstdint>

namespace papilio::detail {

// Whether this processor can run foldCrc32c.
bool canFoldCrc32c();

// Bytes that one step of the fold takes; foldCrc32c handles multiples of it, at least one.
inline constexpr std::size_t kFoldBytes = 256;

// Folds the first `size` bytes at `data` (a positive multiple of kFoldBytes) and the CRC register
// `state` into the 64 bytes at `rest`: running the CRC over `rest` from register 0 gives the
// register that `data` would have given. Copies `data` to `to` on the way unless `to` is null.
void foldCrc32c(const std::byte* data, std::size_t size, std::uint32_t state, std::byte* to,
                std::byte* rest);

}  // namespace papilio::detail
