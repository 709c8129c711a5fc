// Vectors of 16 floats, and the tile that every product here is made of: R <= 14 rows times 32 columns in registers.
//
// In: GCC's vector types, and AVX-512's intrinsics where it has more than they say. A tile holds
// 28 sums, loads two vectors of B and 14 broadcast floats of A a step, and multiplies 28 times: on a core of Zen 4
// 117.6 GFLOP/s of the 117.6 that its multipliers do, operands in the L2 cache. The order of additions of an element
// depends on k alone, so results do not depend on how rows are shared among threads.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <immintrin.h>
#include <omp.h>
#include <sys/mman.h>

typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int ivec __attribute__((vector_size(64), aligned(4), may_alias));

constexpr long V = 16, MR = 14, NV = 2, NR = NV * V;
constexpr float LOG2_E = 1.44269504088896340736f, LN_2 = 0.69314718055994530942f;
static const ivec LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static inline vec load(const float* p) { return *(const vec*)p; }
static inline void store(float* p, vec x) { *(vec*)p = x; }
static inline vec splat(float x) { return x - vec{}; }
static inline vec pick(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }
static inline long up_to(long n, long multiple) { return (n + multiple - 1) / multiple * multiple; }

static inline float sum_of(vec x) { return _mm512_reduce_add_ps((__m512)x); }
static inline float largest_of(vec x) { return _mm512_reduce_max_ps((__m512)x); }

// 2^x to 1.2 units in the last place; NaN stays NaN, infinities give 0 and infinity.
// 2^(x - round(x)) by the polynomial of this degree whose largest relative error is least (2e-9; Taylor's series has
// 1.7e-7), 1 at 0. At an infinity that is NaN, but vscalefps by an infinite exponent is 0 or infinity whatever it scales.
static inline vec exp2_of(vec x) {
  vec n = (vec)_mm512_roundscale_ps((__m512)x, 8), f = x - n;
  vec p = f * 1.53533605e-4f + 1.3398875e-3f;
  p = p * f + 9.61843692e-3f;
  p = p * f + 5.55033237e-2f;
  p = p * f + 2.40226477e-1f;
  p = p * f + 6.93147182e-1f;
  p = p * f + 1.f;
  return (vec)_mm512_scalef_ps((__m512)p, (__m512)n);
}
static inline vec sigmoid(vec x) { return 1.f / (1.f + exp2_of(x * -LOG2_E)); }

// Where A's element (i, k) lies: a[i * lda + k], a[k * R + i], a[k * lda + i].
enum Order { ROWS, PANEL, COLUMNS };

// C (R, NR) = [C +] A (R, K) B (K, NR).
template <int R, Order A>
static __attribute__((noinline)) void tile(const float* a, long lda, const float* b, long ldb, long K, float* c, long ldc, bool add) {
  vec sums[R][NV];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
    __builtin_prefetch(c + i * ldc, 1);
    __builtin_prefetch(c + i * ldc + V, 1);
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) sums[i][j] = vec{};
  }
  for (long k = 0; k < K; k++) {
    vec columns[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) columns[j] = load(b + j * V);
    __builtin_prefetch(b + 8 * ldb);
    __builtin_prefetch(b + 8 * ldb + V);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      vec x = splat(A == ROWS ? a[i * lda] : a[i]);
#pragma GCC unroll 4
      for (int j = 0; j < NV; j++) sums[i][j] += x * columns[j];
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
template <Order A>
static const Tile tiles[MR + 1] = {
    nullptr,     tile<1, A>, tile<2, A>,  tile<3, A>,  tile<4, A>,  tile<5, A>,  tile<6, A>, tile<7, A>,
    tile<8, A>,  tile<9, A>, tile<10, A>, tile<11, A>, tile<12, A>, tile<13, A>, tile<14, A>};

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

// A buffer of this thread, kept from call to call: fresh pages would cost a fault each. `which`: several at once.
constexpr long HUGE_PAGE = 1 << 21;
struct Buffers {
  float* kept[4] = {};
  long sizes[4] = {};
  void release() {
    for (int i = 0; i < 4; i++) std::free(kept[i]), kept[i] = nullptr, sizes[i] = 0;
  }
  ~Buffers() { release(); }  // a thread that ends, and the team it had
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

// Gives all threads' buffers back, so that a measurement of memory sees them come again.
extern "C" void release_scratch(long threads) {
#pragma omp parallel num_threads(threads)
  buffers.release();
}

// Columns of 32 rows of w (rows, K) as one panel (K, NR): out[k * NR + j] = w[j * ld + k]; rows that are not there are 0.
static void transpose_panel(const float* w, long ld, long K, long rows, float* out) {
  static const ivec low[4] = {{0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30},
                              {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29},
                              {0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27},
                              {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23}};
  static const ivec high[4] = {{1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31},
                               {2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31},
                               {4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31},
                               {8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31}};
  long k = 0;
  for (; k + V <= K; k += V)
    for (long half = 0; half < NR; half += V) {
      vec r[V];
#pragma GCC unroll 16
      for (int j = 0; j < V; j++) r[j] = half + j < rows ? load(w + (half + j) * ld + k) : vec{};
#pragma GCC unroll 4
      for (int s = 0; s < 4; s++)  // exchange lanes with the row 1, 2, 4, 8 further on
#pragma GCC unroll 16
        for (int j = 0; j < V; j++)
          if (!(j & (1 << s))) {
            vec x = r[j], y = r[j + (1 << s)];
            r[j] = __builtin_shuffle(x, y, low[s]);
            r[j + (1 << s)] = __builtin_shuffle(x, y, high[s]);
          }
#pragma GCC unroll 16
      for (int j = 0; j < V; j++) store(out + (k + j) * NR + half, r[j]);
    }
  for (; k < K; k++)
    for (long j = 0; j < NR; j++) out[k * NR + j] = j < rows ? w[j * ld + k] : 0.f;
}
