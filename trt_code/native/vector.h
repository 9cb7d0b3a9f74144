// Vectors of the widest floats that the compiler's target has, and functions that vectorise in
// plain loops.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace lite::native {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));

inline Floats load(const float* from) {
  Floats x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

inline void store(float* to, Floats x) { std::memcpy(to, &x, sizeof x); }

// Copies a row. For few floats this is faster than a call of memmove().
inline void copy_row(const float* from, int n, float* to) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, load(from + i));
  for (; i < n; ++i) to[i] = from[i];
}

typedef std::int32_t Ints __attribute__((vector_size(4 * kLanes)));

inline Floats all(float x) { return x - Floats{}; }

// Bit i is set if lane i of a comparison's result is.
inline unsigned lanes_of(Ints comparison) {
#if defined(__AVX512F__)
  return _mm512_cmplt_epi32_mask((__m512i)comparison, _mm512_setzero_si512());
#elif defined(__AVX__)
  return _mm256_movemask_ps((__m256)comparison);
#elif defined(__SSE2__)
  return _mm_movemask_ps((__m128)comparison);
#else
  unsigned bits = 0;
  for (int l = 0; l < kLanes; ++l) bits |= (comparison[l] & 1u) << l;
  return bits;
#endif
}

// Writes the numbers i of [0, n) that count, in order, and returns how many there are. lanes(i)
// says it for those from i on, as a comparison does, and one(i) for one. `at` has room for n
// numbers.
template <typename Lanes, typename One>
int list_where(int n, int* at, Lanes lanes, One one) {
  int count = 0, begin = 0;
#if defined(__AVX512F__)
  Ints numbers;
  for (int l = 0; l < kLanes; ++l) numbers[l] = l;
  for (; begin + kLanes <= n; begin += kLanes, numbers += kLanes) {
    // All lanes are written, those that count first; there is room, since count <= begin.
    const auto found = static_cast<__mmask16>(lanes_of(lanes(begin)));
    _mm512_storeu_si512(at + count, _mm512_maskz_compress_epi32(found, (__m512i)numbers));
    count += __builtin_popcount(found);
  }
#else
  constexpr int kWord = 64;  // numbers that are compared before one branch looks at the results
  for (; begin + kWord <= n; begin += kWord) {
    std::uint64_t found = 0;
    for (int i = 0; i < kWord; i += kLanes)
      found |= static_cast<std::uint64_t>(lanes_of(lanes(begin + i))) << i;
    for (; found; found &= found - 1) at[count++] = begin + __builtin_ctzll(found);
  }
#endif
  for (int i = begin; i < n; ++i) {
    at[count] = i;
    count += one(i);
  }
  return count;
}

// n rounded up to whole vectors
constexpr int padded(int n) { return (n + kLanes - 1) / kLanes * kLanes; }

// e^r for |r| <= ln(2) / 2, a polynomial (Cephes, expf).
template <typename X>
X exp_near_zero(X r) {
  X p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return p * r * r + r + 1.f;
}

constexpr float kLeastExponent = -87.3f, kMostExponent = 88.7f, kLog2E = 1.44269504f;
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

// e^x within 2 units in the last place: 2^n times e^(x - n ln 2). Without branches, so that
// compilers vectorise loops over it. NaN stays NaN.
inline float exp_of(float x) {
  const float bounded = x < kLeastExponent ? kLeastExponent : x > kMostExponent ? kMostExponent : x;
  const float n = __builtin_rintf(bounded * kLog2E);
  const float p = exp_near_zero((bounded - n * kLn2High) - n * kLn2Low);
  const std::uint32_t bits = static_cast<std::uint32_t>(static_cast<std::int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

inline Floats exp_of(Floats x) {
  Floats bounded = x < kLeastExponent ? all(kLeastExponent) : x;
  bounded = bounded > kMostExponent ? all(kMostExponent) : bounded;
  const Floats scaled = bounded * kLog2E;  // its conversion to integers cuts the fraction off
  const Ints n = __builtin_convertvector(scaled + (scaled < 0 ? all(-0.5f) : all(0.5f)), Ints);
  const Floats rounded = __builtin_convertvector(n, Floats);
  const Floats p = exp_near_zero((bounded - rounded * kLn2High) - rounded * kLn2Low);
  const Ints bits = (n + 127) << 23;
  Floats power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

constexpr float kNone = -std::numeric_limits<float>::infinity();

// The greatest lane, NaN left out unless all lanes are.
inline float greatest(Floats x) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)x);
#else
  float lanes[kLanes];
  store(lanes, x);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l)
      lanes[l] = lanes[l + half] > lanes[l] ? lanes[l + half] : lanes[l];
  return lanes[0];
#endif
}

inline float sum_of(Floats x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#else
  float lanes[kLanes];
  store(lanes, x);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
#endif
}

// Lane l is lane l + turn of x, the last followed by the first.
inline Floats turned(Floats x, int turn) {
  float lanes[2 * kLanes];
  store(lanes, x);
  store(lanes + kLanes, x);
  return load(lanes + turn);
}

// The greatest of x[0..n), NaN left out. A plain loop is not vectorised: its order matters for NaN.
inline float maximum(const float* x, int n) {
  Floats wide = all(kNone);
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats next = load(x + i);
    wide = next > wide ? next : wide;
  }
  float most = greatest(wide);
  for (; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

// Softmax of x[0..n) in place.
inline void softmax(float* x, int n) {
  const float most = maximum(x, n);
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += x[i] = exp_of(x[i] - most);
  const float scale = 1 / sum;
  for (int i = 0; i < n; ++i) x[i] *= scale;
}

}  // namespace lite::native
