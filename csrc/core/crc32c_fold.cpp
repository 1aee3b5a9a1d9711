#include "core/crc32c_fold.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace papilio::detail {

#if defined(__x86_64__)

namespace {

// x^n mod P in the reflected notation of CRC32C (bit 31 is x^0).
constexpr std::uint32_t powerOfX(std::uint64_t n) {
  std::uint32_t value = 0x80000000u;
  for (; n != 0; --n) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82f63b78u : 0);
  return value;
}

// Factors that move 128 bits forward by `bytes`: x^(8 bytes + 32 - 1) for the low half, 64 powers
// less for the high half. The -1: the carry-less product of two reflected numbers comes out one bit
// low. (V. Gopal et al., "Fast CRC computation for generic polynomials using PCLMULQDQ", Intel
// 2009.)
constexpr std::uint64_t lowFactor(std::uint64_t bytes) { return powerOfX(8 * bytes + 32 - 1); }
constexpr std::uint64_t highFactor(std::uint64_t bytes) { return powerOfX(8 * bytes - 32 - 1); }

#define PAPILIO_FOLD __attribute__((target("avx512f,avx512vl,vpclmulqdq")))

PAPILIO_FOLD inline __m512i factors(std::uint64_t low, std::uint64_t high) {
  const auto l = static_cast<long long>(low);
  const auto h = static_cast<long long>(high);
  return _mm512_set_epi64(h, l, h, l, h, l, h, l);
}

PAPILIO_FOLD inline __m512i fold(__m512i from, __m512i by, __m512i onto) {
  const __m512i low = _mm512_clmulepi64_epi128(from, by, 0x00);
  const __m512i high = _mm512_clmulepi64_epi128(from, by, 0x11);
  return _mm512_ternarylogic_epi64(low, high, onto, 0x96);
}

PAPILIO_FOLD inline __m512i take(const std::byte*& data, std::byte*& to) {
  const __m512i value = _mm512_loadu_si512(data);
  data += sizeof value;
  if (to != nullptr) {
    _mm512_storeu_si512(to, value);
    to += sizeof value;
  }
  return value;
}

}  // namespace

bool canFoldCrc32c() {
  static const bool can = __builtin_cpu_supports("avx512f") != 0 &&
                          __builtin_cpu_supports("avx512vl") != 0 &&
                          __builtin_cpu_supports("vpclmulqdq") != 0;
  return can;
}

PAPILIO_FOLD void foldCrc32c(const std::byte* data, std::size_t size, std::uint32_t state,
                             std::byte* to, std::byte* rest) {
  static constexpr std::uint64_t far_low = lowFactor(kFoldBytes);
  static constexpr std::uint64_t far_high = highFactor(kFoldBytes);
  static constexpr std::uint64_t near_low = lowFactor(64);
  static constexpr std::uint64_t near_high = highFactor(64);
  const __m512i far = factors(far_low, far_high);
  const __m512i near = factors(near_low, near_high);
  __m512i a = take(data, to);
  __m512i b = take(data, to);
  __m512i c = take(data, to);
  __m512i d = take(data, to);
  a = _mm512_xor_si512(a, _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(state))));
  for (size -= kFoldBytes; size != 0; size -= kFoldBytes) {
    a = fold(a, far, take(data, to));
    b = fold(b, far, take(data, to));
    c = fold(c, far, take(data, to));
    d = fold(d, far, take(data, to));
  }
  b = fold(a, near, b);
  c = fold(b, near, c);
  d = fold(c, near, d);
  _mm512_storeu_si512(rest, d);
}

#else

bool canFoldCrc32c() { return false; }
void foldCrc32c(const std::byte*, std::size_t, std::uint32_t, std::byte*, std::byte*) {}

#endif

}  // namespace papilio::detail
