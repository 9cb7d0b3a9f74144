// Rounding to 8-bit integers, and their products with the instruction of the target that adds up
// the most of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vector.h"

namespace lite::native {

#if defined(__AVX512VNNI__)
using Integer = std::int8_t;
constexpr bool kNeedsUnsigned = true;  // x: see make_unsigned()

inline Ints add_products(Ints sums, Ints x, Ints weights) {
  return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)x, (__m512i)weights);
}
#else
using Integer = std::int16_t;
constexpr bool kNeedsUnsigned = false;

inline Ints add_products(Ints sums, Ints x, Ints weights) {
#if defined(__AVX512BW__)
  return sums + (Ints)_mm512_madd_epi16((__m512i)x, (__m512i)weights);
#elif defined(__AVX2__) && !defined(__AVX512F__)
  return sums + (Ints)_mm256_madd_epi16((__m256i)x, (__m256i)weights);
#elif defined(__SSE2__) && !defined(__AVX__)
  return sums + (Ints)_mm_madd_epi16((__m128i)x, (__m128i)weights);
#else
  return sums + (x << 16 >> 16) * (weights << 16 >> 16) + (x >> 16) * (weights >> 16);
#endif
}
#endif

// Integers in a 32-bit lane; add_products() adds up their products.
constexpr int kTogether = sizeof(std::int32_t) / sizeof(Integer);

// x / scale as an integer from -128 to 127; halves become even.
inline int rounded(float x, float scale) {
  const float quotient = __builtin_rintf(x / scale);
  return static_cast<int>(quotient < -128 ? -128 : quotient > 127 ? 127 : quotient);
}

// Writes x[0..n) / scale as integers from -128 to 127, and returns whether one of them is negative.
inline bool round_row(const float* x, int n, float scale, Integer* to) {
  int least = 0, i = 0;
#if defined(__AVX512VNNI__)
  // Two products are faster than a quotient, and the quotient lies between them. It is computed
  // only for the few vectors in which they round to different integers, and for very large or very
  // small scales.
  const float low = 1 / scale * (1 - 0x1p-22f), high = 1 / scale * (1 + 0x1p-22f);
  const float most = 127 * scale;
  __m512i least_lanes = _mm512_setzero_si512();
  const bool exact = scale > 0x1p-100f && scale < 0x1p100f;
  for (; exact && i + kLanes <= n; i += kLanes) {
    const Floats lanes = load(x + i), bounded = lanes < most ? lanes : all(most);
    const __m512i lower = _mm512_cvtps_epi32((__m512)(bounded * low));
    const __m512i upper = _mm512_cvtps_epi32((__m512)(bounded * high));
    if (__builtin_expect(_mm512_cmpneq_epi32_mask(lower, upper), 0)) {
      for (int l = i; l < i + kLanes; ++l) {
        const int integer = rounded(x[l], scale);
        least = integer < least ? integer : least;
        to[l] = static_cast<Integer>(integer);
      }
      continue;
    }
    least_lanes = _mm512_min_epi32(least_lanes, lower);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm512_cvtsepi32_epi8(lower));
  }
  if (_mm512_movepi32_mask(least_lanes)) least = -1;
#endif
  for (; i < n; ++i) {
    const int integer = rounded(x[i], scale);
    least = integer < least ? integer : least;
    to[i] = static_cast<Integer>(integer);
  }
  return least < 0;
}

constexpr int kOffset = 128;

// Adds kOffset to each of the 8-bit integers in `words`: unsigned ones are 0 to 255.
inline void make_unsigned(std::int32_t* words, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) words[i] ^= static_cast<std::int32_t>(0x80808080);
}

}  // namespace lite::native
