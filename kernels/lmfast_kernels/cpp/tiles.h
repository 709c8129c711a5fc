// The tile of all products: R <= MR rows times NR columns of sums in registers (vectors.h).
//
// With AVX-512 a tile has 28 sums. A step loads two vectors of B, broadcasts 14 floats of A and does 28 multiply-adds: 117.6
// GFLOP/s on a core of Zen 4, the peak of its multipliers, with operands in the L2 cache. An element's order of additions
// depends only on k, so results do not depend on how rows are distributed over threads.
#pragma once
#include <array>
#include <utility>

#include "vectors.h"

// The position of A's element (i, k): a[i * lda + k], a[k * R + i], a[k * lda + i].
enum Order { ROWS, PANEL, COLUMNS };

// C (R, NR) = [C +] A (R, K) B (K, NR).
template <int R, Order A>
static __attribute__((noinline)) void tile(const float* a, long lda, const float* b, long ldb, long K, float* c, long ldc, bool add) {
  vec sums[R][NV];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < NR; j += LINE) __builtin_prefetch(c + i * ldc + j, 1);
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) sums[i][j] = vec{};
  }
  for (long k = 0; k < K; k++) {
    vec columns[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) columns[j] = load(b + j * V);
#pragma GCC unroll 4
    for (int j = 0; j < NR; j += LINE) __builtin_prefetch(b + 8 * ldb + j);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      vec x = splat(A == ROWS ? a[i * lda] : a[i]);
#pragma GCC unroll 4
      for (int j = 0; j < NV; j++) sums[i][j] = fused(x, columns[j], sums[i][j]);
    }
    b += ldb;
    a += A == ROWS ? 1 : A == PANEL ? R : lda;
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) {
      float* p = c + i * ldc + j * V;
      store(p, add ? load(p) + sums[i][j] : sums[i][j]);
    }
}

typedef void (*Tile)(const float*, long, const float*, long, long, float*, long, bool);
template <Order A, int... R>
static constexpr std::array<Tile, MR + 1> all_heights(std::integer_sequence<int, R...>) { return {nullptr, tile<R + 1, A>...}; }
template <Order A>
static constexpr std::array<Tile, MR + 1> tiles = all_heights<A>(std::make_integer_sequence<int, MR>());

// A tile of which only the first `columns` columns of B and C exist; K <= 256.
template <Order A>
static inline void put(long R, const float* a, long lda, const float* b, long ldb, long K, float* c, long ldc, long columns, bool add) {
  if (columns >= NR) return tiles<A>[R](a, lda, b, ldb, K, c, ldc, add);
  float panel[256 * NR], rest[MR * NR];
  for (long k = 0; k < K; k++)
    for (long j = 0; j < NR; j++) panel[k * NR + j] = j < columns ? b[k * ldb + j] : 0.f;
  tiles<A>[R](a, lda, panel, NR, K, rest, NR, false);
  for (long i = 0; i < R; i++)
    for (long j = 0; j < columns; j++) c[i * ldc + j] = rest[i * NR + j] + (add ? c[i * ldc + j] : 0.f);
}

// This thread's buffer number `which`, kept between calls because every new page would cost a fault.
constexpr long HUGE_PAGE = 1 << 21;
struct Buffers {
  float* kept[4] = {};
  long sizes[4] = {};
  void release() {
    for (int i = 0; i < 4; i++) std::free(kept[i]), kept[i] = nullptr, sizes[i] = 0;
  }
  ~Buffers() { release(); }  // when a thread and its team end
};
static thread_local Buffers buffers;
static float* scratch(int which, long floats) {
  auto& [kept, sizes] = buffers;
  if (floats > sizes[which]) {
    std::free(kept[which]);
    long page = 4 * floats < HUGE_PAGE / 2 ? 4096 : HUGE_PAGE, bytes = up_to(4 * floats, page);
    kept[which] = (float*)std::aligned_alloc(page, bytes);
    if (!kept[which]) std::abort();
    if (page == HUGE_PAGE) madvise(kept[which], bytes, MADV_HUGEPAGE);
    sizes[which] = floats;
  }
  return kept[which];
}

// Frees the buffers of all threads, so that a measurement of memory counts their allocation.
extern "C" void release_scratch(long threads) {
#pragma omp parallel num_threads(threads)
  buffers.release();
}

// Transposes at most NR rows of w (rows, K) into one panel (K, NR): out[k * NR + j] = w[j * ld + k]; missing rows are 0.
static void transpose_panel(const float* w, long ld, long K, long rows, float* out) {
  long k = 0;
  for (; k + V <= K; k += V)
    for (long half = 0; half < NR; half += V) {
      vec r[V];
#pragma GCC unroll 16
      for (int j = 0; j < V; j++) r[j] = half + j < rows ? load(w + (half + j) * ld + k) : vec{};
#pragma GCC unroll 4
      for (int s = 1; s < V; s *= 2)  // exchange lanes with the row 1, 2, 4, ... rows ahead
#pragma GCC unroll 16
        for (int j = 0; j < V; j++)
          if (!(j & s)) exchange(r[j], r[j + s], s);
#pragma GCC unroll 16
      for (int j = 0; j < V; j++) store(out + (k + j) * NR + half, r[j]);
    }
  for (; k < K; k++)
    for (long j = 0; j < NR; j++) out[k * NR + j] = j < rows ? w[j * ld + k] : 0.f;
}
