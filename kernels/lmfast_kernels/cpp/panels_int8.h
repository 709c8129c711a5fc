// Products of rows with 8-bit weights. Weights and rows are quantised in blocks of 32 inputs.
//
// A weight is an integer in [-127, 127] times the scale of its block, a bfloat16 number; rows are quantised on the fly, with
// float32 scales, and products are summed as integers within a block: the format of llama.cpp's Q8_0 but for the scale's
// type. 64 inputs of a panel of 16 outputs are stored together, (2, 16) scales before (2, 8, 16, 4) integers, 17 cache lines.
// Inputs are padded with zeros to a multiple of 64. Results do not depend on the number of rows and panels, to the bit.
#pragma once
#include <cstdint>

#include "panels.h"

constexpr long PAIR = 64, HALF = 32, PAIR_BYTES = 2 * W * 2 + W * PAIR;
struct RowPair {  // 64 inputs of a row
  int8_t values[PAIR];
  float scales[2];
  int32_t offsets[2];  // -128 times the sum of a block's values
};

// sums + the products of 4 bytes per lane. Instructions for unsigned times signed bytes store weights plus 128, and sums then
// begin at RowPair::offsets.
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
constexpr int STORED = 128;
static inline ivec dot4(ivec sums, ivec w, ivec x) { return (ivec)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)w, (__m512i)x); }
#elif defined(__AVX512F__)
constexpr int STORED = 0;
static inline ivec dot4(ivec sums, ivec w, ivec x) {
  __m512i signs = _mm512_mask_sub_epi8((__m512i)x, _mm512_movepi8_mask((__m512i)w), _mm512_setzero_si512(), (__m512i)x);
  __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8((__m512i)w), signs);
  return sums + (ivec)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}
#elif defined(__AVXVNNI__)
constexpr int STORED = 128;
static inline ivec dot4(ivec sums, ivec w, ivec x) { return (ivec)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)w, (__m256i)x); }
#elif defined(__AVX2__)
constexpr int STORED = 0;
static inline ivec dot4(ivec sums, ivec w, ivec x) {  // 2 * 127 * 127 fits 16 bits
  __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)w), _mm256_sign_epi8((__m256i)x, (__m256i)w));
  return sums + (ivec)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr int STORED = 0;
static inline ivec dot4(ivec sums, ivec w, ivec x) { return (ivec)vdotq_s32((int32x4_t)sums, (int8x16_t)w, (int8x16_t)x); }
#else
constexpr int STORED = 0;
static inline ivec dot4(ivec sums, ivec w, ivec x) {
  int8x16_t a = (int8x16_t)w, b = (int8x16_t)x;
  int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b))), high = vpaddlq_s16(vmull_s8(vget_high_s8(a), vget_high_s8(b)));
  return sums + (ivec)vpaddq_s32(low, high);
}
#endif
#if defined(__AVX512F__)
constexpr int ONE_INT8 = 8, MANY_INT8 = 2;  // panels computed together for one row, and for more
#else
constexpr int ONE_INT8 = 2, MANY_INT8 = 1;
#endif
constexpr int ROWS_INT8 = 4;

static inline long pairs_of(long inputs) { return (inputs + PAIR - 1) / PAIR; }
static inline long int8_bytes(const Matrix& m) { return up_to(m.outputs, W) / W * pairs_of(m.inputs) * PAIR_BYTES; }

typedef uint16_t half_vec __attribute__((vector_size(2 * V), aligned(2), may_alias));
typedef uint32_t uvec __attribute__((vector_size(4 * V), aligned(4), may_alias));
static inline vec scales_at(const char* p) { return (vec)(__builtin_convertvector(*(const half_vec*)p, uvec) << 16); }
// `scale` as a bfloat16 that is not smaller, so that no quotient exceeds 127.
static inline uint16_t rounded_up(float scale) {
  uint32_t bits;
  std::memcpy(&bits, &scale, 4);
  return (bits + 0xffff) >> 16;
}

// Up to 32 floats, followed by zeros where there are fewer.
struct Block {
  const float* x;
  float copy[HALF];
  Block(const float* from, long count) : x(from) {
    if (count >= HALF) return;
    std::memset(copy, 0, sizeof copy);
    if (count > 0) std::memcpy(copy, from, 4 * count);
    x = copy;
  }
  float largest() const {  // absolute value
    vec most = vec{};
    for (long k = 0; k < HALF; k += V) {
      vec value = absolute(load(x + k));
      most = pick(value > most, value, most);
    }
    return largest_of(most);
  }
};

// Packs the rows [begin, end) of the weights, begin a multiple of W.
static void pack_int8(const Matrix& m, long begin, long end) {
  constexpr float ROUND = 12582912.f;  // adding 1.5 * 2^23 rounds to the nearest integer
  for (long o = begin; o < end; o += W)
    for (long b = 0; b < 2 * pairs_of(m.inputs); b++) {
      char* pair = m.panels + (o / W * pairs_of(m.inputs) + b / 2) * PAIR_BYTES;
      char* out = pair + 2 * W * 2 + b % 2 * W * HALF;
      for (long lane = 0; lane < W; lane++) {
        Block w(m.weight + (o + lane) * m.inputs + b * HALF, o + lane < m.outputs ? m.inputs - b * HALF : 0);
        uint16_t scale = rounded_up(w.largest() / 127);
        ((uint16_t*)pair)[b % 2 * W + lane] = scale;
        uint32_t bits = (uint32_t)scale << 16;
        float unit;
        std::memcpy(&unit, &bits, 4);
        int8_t bytes[HALF];
        float wholes[HALF];
        for (long k = 0; k < HALF; k += V) store(wholes + k, unit > 0 ? load(w.x + k) / unit + ROUND - ROUND : vec{});
        for (long k = 0; k < HALF; k++) bytes[k] = (int8_t)((int)wholes[k] + STORED);
        for (long k = 0; k < HALF; k += 4) std::memcpy(out + (k * W + lane * 4), bytes + k, 4);
      }
    }
}

// Quantises a row of `inputs` floats.
static void quantise(const float* x, long inputs, RowPair* out) {
  for (long b = 0; b < 2 * pairs_of(inputs); b++) {
    RowPair& pair = out[b / 2];
    Block here(x + b * HALF, inputs - b * HALF);
    float largest = here.largest(), inverse = largest > 1e-30f ? 127 / largest : 0;  // finite
    int32_t wholes[HALF];
    ivec sums = ivec{};
    for (long k = 0; k < HALF; k += V) {
      vec value = load(here.x + k) * inverse;
      ivec whole = __builtin_convertvector(value + pick(value < 0.f, splat(-.5f), splat(.5f)), ivec);  // towards zero
      *(ivec*)(wholes + k) = whole;
      sums += whole;
    }
    for (long k = 0; k < HALF; k++) pair.values[b % 2 * HALF + k] = (int8_t)wholes[k];
    if (STORED) pair.offsets[b % 2] = -128 * (int)sum_of(__builtin_convertvector(sums, vec));
    pair.scales[b % 2] = largest / 127;
  }
}

// out (R, P * W) = quantised rows, `ldx` RowPairs apart, times P panels. ahead: bytes between a prefetch and its use.
template <int R, int P>
static __attribute__((noinline)) void int8_tile(const RowPair* x, long ldx, const char* b, long pairs, float* out, long ldo, long ahead) {
  vec totals[R][P * VP] = {};
  for (long pair = 0; pair < pairs; pair++, b += PAIR_BYTES)
#pragma GCC unroll 1
    for (int half = 0; half < 2; half++) {
      ivec sums[R][P * VP];
#pragma GCC unroll 4
      for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int j = 0; j < P * VP; j++) sums[r][j] = STORED ? ivec{} + x[r * ldx + pair].offsets[half] : ivec{};
#pragma GCC unroll 1
      for (int k = 0; k < HALF / 4; k++) {
        ivec w[P * VP];
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) {
          const char* here = b + p * pairs * PAIR_BYTES + 2 * W * 2 + (half * HALF / 4 + k) * W * 4;
          __builtin_prefetch(here + ahead);
#pragma GCC unroll 4
          for (int j = 0; j < VP; j++) w[p * VP + j] = *(const ivec*)(here + j * 4 * V);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
          int32_t four;
          std::memcpy(&four, x[r * ldx + pair].values + half * HALF + 4 * k, 4);
          ivec value = ivec{} + four;
#pragma GCC unroll 16
          for (int j = 0; j < P * VP; j++) sums[r][j] = dot4(sums[r][j], w[j], value);
        }
      }
#pragma GCC unroll 8
      for (int p = 0; p < P; p++)
#pragma GCC unroll 4
        for (int j = 0; j < VP; j++) {
          vec scale = scales_at(b + p * pairs * PAIR_BYTES + (half * W + j * V) * 2);
#pragma GCC unroll 4
          for (int r = 0; r < R; r++)
            totals[r][p * VP + j] = fused(__builtin_convertvector(sums[r][p * VP + j], vec), scale * x[r * ldx + pair].scales[half], totals[r][p * VP + j]);
        }
    }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int j = 0; j < P * VP; j++) store(out + r * ldo + j * V, totals[r][j]);
}

// The same for R <= ROWS_INT8 rows and one panel, or those that are multiplied together.
typedef void (*Int8Tile)(const RowPair*, long, const char*, long, float*, long, long);
static constexpr Int8Tile INT8_TILES[2][ROWS_INT8 + 1] = {
    {nullptr, int8_tile<1, 1>, int8_tile<2, 1>, int8_tile<3, 1>, int8_tile<4, 1>},
    {nullptr, int8_tile<1, MANY_INT8>, int8_tile<2, MANY_INT8>, int8_tile<3, MANY_INT8>, int8_tile<4, MANY_INT8>}};

// out (rows, outputs) = quantised rows, `ldx` apart, times the columns [begin, end), begin a multiple of W. Writes whole panels.
static void times_int8(const Matrix& m, const RowPair* x, long ldx, long rows, long begin, long end, float* out, long ldo) {
  long pairs = pairs_of(m.inputs), panels = (end - begin + W - 1) / W;
  const char* b = m.panels + begin / W * pairs * PAIR_BYTES;
  out += begin;
  for (long p = 0; p < panels;) {
    const char* here = b + p * pairs * PAIR_BYTES;
    if (rows == 1 && p + ONE_INT8 <= panels) {
      int8_tile<1, ONE_INT8>(x, ldx, here, pairs, out + W * p, ldo, 2 * PAIR_BYTES);
      p += ONE_INT8;
      continue;
    }
    long together = p + MANY_INT8 <= panels ? MANY_INT8 : 1;
    // The first rows fetch the next panels, so that memory is busy while the others are multiplied with these.
    long ahead = rows > ROWS_INT8 ? together * pairs * PAIR_BYTES : 2 * PAIR_BYTES;
    for (long r = 0; r < rows; r += ROWS_INT8, ahead = 0)
      INT8_TILES[together > 1][std::min<long>(ROWS_INT8, rows - r)](x + r * ldx, ldx, here, pairs, out + r * ldo + W * p, ldo, ahead);
    p += together;
  }
}
