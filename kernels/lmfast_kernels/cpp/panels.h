// Products of rows with a matrix in panels of 16 columns: panel[k * step + lane].
//
// Weights are packed into panels once (step 16); the keys and values of the cache are read as panels too. A step of the
// inner loop reads 16 columns, a cache line, and multiplies them with one float of each row. Each lane sums over k in order,
// however many rows and panels are computed together, so the result of a row does not depend on the others, to the bit.
#pragma once
#include <array>
#include <utility>

#include "vectors.h"

constexpr long W = 16, VP = W / V;  // columns of a panel, vectors of them
constexpr long AHEAD = 32;          // steps between a prefetch and its use
#if defined(__AVX512F__)
constexpr int ONE = 8, FEW = 4, MANY = 2;  // panels computed together for one row, for two or three, and for more
#else
constexpr int ONE = 4, FEW = 2, MANY = 1;
#endif

// out (R, P * W) = [out +] x (R, K) times P panels, `panel` floats apart.
template <int R, int P>
static __attribute__((noinline)) void panel_tile(const float* x, long ldx, const float* b, long panel, long step, long K, float* out, long ldo, bool more) {
  vec sums[R][P * VP];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int j = 0; j < P * VP; j++) sums[r][j] = more ? load(out + r * ldo + j * V) : vec{};
  for (long k = 0; k < K; k++, b += step) {
    vec columns[P * VP];
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) {
      __builtin_prefetch(b + p * panel + AHEAD * step);
#pragma GCC unroll 4
      for (int j = 0; j < VP; j++) columns[p * VP + j] = load(b + p * panel + j * V);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      vec value = splat(x[r * ldx + k]);
#pragma GCC unroll 16
      for (int j = 0; j < P * VP; j++) sums[r][j] = fused(value, columns[j], sums[r][j]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int j = 0; j < P * VP; j++) store(out + r * ldo + j * V, sums[r][j]);
}

typedef void (*PanelTile)(const float*, long, const float*, long, long, long, float*, long, bool);
template <int P, int... R>
static constexpr std::array<PanelTile, sizeof...(R) + 1> panel_heights(std::integer_sequence<int, R...>) {
  return {nullptr, panel_tile<R + 1, P>...};
}
static constexpr auto NARROW = panel_heights<1>(std::make_integer_sequence<int, MR>());
static constexpr auto WIDE = panel_heights<MANY>(std::make_integer_sequence<int, MR>());
static constexpr auto WIDER = panel_heights<FEW>(std::make_integer_sequence<int, 3>());

// out (R, W * panels) = [out +] x (R, K) times `panels` panels, R <= MR: fewer rows take more panels together.
static void panel_row(long R, const float* x, long ldx, const float* b, long panel, long step, long K, long panels, float* out, long ldo, bool more) {
  long p = 0;
  auto take = [&](PanelTile tile, long width) {
    for (; p + width <= panels; p += width) tile(x, ldx, b + p * panel, panel, step, K, out + W * p, ldo, more);
  };
  if (R == 1) take(panel_tile<1, ONE>, ONE);
  if (R <= 3) take(WIDER[R], FEW);
  take(WIDE[R], MANY);
  take(NARROW[R], 1);
}
// The same for any number of rows; a few panels at a time, which stay in the cache for all rows.
static void panel_products(const float* x, long ldx, long rows, const float* b, long panel, long step, long K, long panels, float* out, long ldo, bool more) {
  for (long p = 0; p < panels; p += ONE)
    for (long r = 0; r < rows; r += MR)
      panel_row(std::min(MR, rows - r), x + r * ldx, ldx, b + p * panel, panel, step, K, std::min<long>(ONE, panels - p), out + r * ldo + W * p, ldo, more);
}

// The weights of a linear layer, and its panels: floats (inputs, W), or 8-bit blocks (panels_int8.h).
struct Matrix {
  const float* weight;  // (outputs, inputs)
  long outputs, inputs;
  char* panels;
};
constexpr long BLOCK = 512;  // inputs of many rows that are multiplied at a time, so that they stay in the L2 cache

static inline long float_bytes(const Matrix& m) { return up_to(m.outputs, W) * m.inputs * 4; }
// Packs the rows [begin, end) of the weights, begin a multiple of W; rows beyond the last are zeros.
static void pack_floats(const Matrix& m, long begin, long end) {
  for (long o = begin; o < end; o += W) {
    float* panel = (float*)m.panels + o * m.inputs;
    for (long first = 0; first < m.inputs; first += W)  // in blocks, so that the lines written stay in the L1 cache
      for (long lane = 0; lane < W; lane++)
        for (long k = first; k < std::min(m.inputs, first + W); k++)
          panel[k * W + lane] = o + lane < m.outputs ? m.weight[(o + lane) * m.inputs + k] : 0.f;
  }
}
// out (rows, outputs) = x (rows, inputs) times the columns [begin, end), begin a multiple of W. Writes whole panels.
static void times_floats(const Matrix& m, const float* x, long ldx, long rows, long begin, long end, float* out, long ldo) {
  long block = rows > 3 ? BLOCK : m.inputs;
  for (long k = 0; k < m.inputs; k += block)
    panel_products(x + k, ldx, rows, (float*)m.panels + begin * m.inputs + k * W, W * m.inputs, W, std::min(block, m.inputs - k),
                   (end - begin + W - 1) / W, out + begin, ldo, k > 0);
}
