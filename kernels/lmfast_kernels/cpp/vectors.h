// Vectors of V floats and their operations, for AVX-512, AVX2 with FMA, and NEON, selected by the compiler's target.
//
// Uses GCC's vector types, and intrinsics only where one AVX-512 instruction replaces several. The tile of tiles.h has MR
// rows of NV vectors, so that its sums leave registers for NV vectors of B and a broadcast float of A, out of 32 registers
// (AVX-512, NEON) or 16 (AVX2).
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

#if defined(__x86_64__)
#include <immintrin.h>
#else
#include <arm_neon.h>
#endif
#if defined(__AVX512F__)
constexpr long V = 16, MR = 14, NV = 2;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr long V = 8, MR = 6, NV = 2;
#elif defined(__aarch64__)
constexpr long V = 4, MR = 6, NV = 4;
#else
#error "needs AVX-512, AVX2 with FMA, or NEON"
#endif
constexpr long NR = NV * V, LINE = 16;  // LINE: floats of a cache line

typedef float vec __attribute__((vector_size(4 * V), aligned(4), may_alias));
typedef int ivec __attribute__((vector_size(4 * V), aligned(4), may_alias));

constexpr float LOG2_E = 1.44269504088896340736f, LN_2 = 0.69314718055994530942f;
#if defined(__AVX512F__)
static const ivec LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif defined(__AVX2__)
static const ivec LANE = {0, 1, 2, 3, 4, 5, 6, 7};
#else
static const ivec LANE = {0, 1, 2, 3};
#endif

static inline vec load(const float* p) { return *(const vec*)p; }
static inline void store(float* p, vec x) { *(vec*)p = x; }
static inline vec splat(float x) { return x - vec{}; }
static inline vec pick(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }
static inline vec absolute(vec x) { return pick(x < 0.f, -x, x); }
static inline long up_to(long n, long multiple) { return (n + multiple - 1) / multiple * multiple; }

// x * y + sum, rounded once. An expression is not enough: for some CPUs, GCC keeps multiplication and addition apart where a loop
// has one sum, so that tiles of one row would round differently from others.
static inline vec fused(vec x, vec y, vec sum) {
#if defined(__AVX512F__)
  return (vec)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)sum);
#elif defined(__AVX2__)
  return (vec)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)sum);
#else
  return (vec)vfmaq_f32((float32x4_t)sum, (float32x4_t)x, (float32x4_t)y);
#endif
}

#if defined(__AVX512F__)
static inline float sum_of(vec x) { return _mm512_reduce_add_ps((__m512)x); }
static inline float largest_of(vec x) { return _mm512_reduce_max_ps((__m512)x); }
#else
static inline float sum_of(vec x) {
#pragma GCC unroll 4
  for (int s = V / 2; s; s /= 2) x += __builtin_shuffle(x, LANE ^ s);
  return x[0];
}
static inline float largest_of(vec x) {
#pragma GCC unroll 4
  for (int s = V / 2; s; s /= 2) {
    vec y = __builtin_shuffle(x, LANE ^ s);
    x = pick(y > x, y, x);
  }
  return x[0];
}
#endif

// 2^x within 1.2 ulp; NaN gives NaN, infinities give 0 and infinity.
// 2^(x - round(x)) by the minimax polynomial of this degree (relative error 2e-9; the Taylor series has
// 1.7e-7), 1 at 0.
static inline vec exp2_fraction(vec f) {
  vec p = f * 1.53533605e-4f + 1.3398875e-3f;
  p = p * f + 9.61843692e-3f;
  p = p * f + 5.55033237e-2f;
  p = p * f + 2.40226477e-1f;
  p = p * f + 6.93147182e-1f;
  return p * f + 1.f;
}
#if defined(__AVX512F__)
// At an infinity the fraction is NaN, but vscalefps by an infinite exponent gives 0 or infinity for any operand.
static inline vec exp2_of(vec x) {
  vec n = (vec)_mm512_roundscale_ps((__m512)x, 8);
  return (vec)_mm512_scalef_ps((__m512)exp2_fraction(x - n), (__m512)n);
}
#else
// Exponents outside +-252 also give infinity and 0. 2^n is multiplied as two powers, each a normal number; adding
// 1.5 * 2^23 rounds to an integer, which is then in the low bits.
static inline vec exp2_of(vec x) {
  constexpr float ROUND = 12582912.f;
  x = pick(x > 252.f, splat(252.f), pick(x < -252.f, splat(-252.f), x));
  vec shifted = x + ROUND, n = shifted - ROUND;
  ivec whole = (ivec)shifted - (ivec)splat(ROUND), half = whole >> 1;
  return exp2_fraction(x - n) * (vec)((half + 127) << 23) * (vec)((whole - half + 127) << 23);
}
#endif
// By the absolute value, so that results near 1 and -1 are as exact as their distance from it.
static inline vec tanh_of(vec x) {
  vec size = absolute(x), e = exp2_of(size * (-2 * LOG2_E)), y = (1.f - e) / (1.f + e);
  return pick(x < 0.f, -y, y);
}
static inline vec sigmoid(vec x) { return 1.f / (1.f + exp2_of(x * -LOG2_E)); }

// Exchanges alternate blocks of S lanes (a power of two) between x and y: one step of a transposition.
static inline void exchange(vec& x, vec& y, int S) {
  ivec low = (LANE & S) != 0 ? LANE + int(V) - S : LANE, high = (LANE & S) != 0 ? LANE + int(V) : LANE + S;
  vec a = x, b = y;
  x = __builtin_shuffle(a, b, low);
  y = __builtin_shuffle(a, b, high);
}
