// Matrix products built from tiles. Each function computes one thread's part; the caller opens the parallel region.
//
// In and out: row-major float matrices with the distance between rows (ld). The inner dimension is split into blocks of
// KC, so that the KC rows of B stay in the L2 cache while rows of A are processed. For these shapes on Zen 4 this reaches 100
// to 110 GFLOP/s per thread, MKL 92 to 101 (docs/LOG.md).
#pragma once
#include "tiles.h"

constexpr long KC = 256, GROUP_FLOATS = 131072;  // 512 KB of L2
constexpr long GRADIENT_ROWS = 8 * LINE;  // of a weight's gradient in a unit of work

// Rows of a unit of work. Threads take units as they become free (schedule(dynamic)) instead of fixed halves: if another process
// occupies a core for a while, the other threads do the rest. At least eight units per thread, so that all finish at about the
// same time, of at most `most` rows, in whole cache lines (rows may be columns of another matrix). Results do not depend on it.
static inline long unit(long n, long threads, long most) {
  return std::min(most, up_to(std::max(1L, n / (8 * threads)), LINE));
}
// Rows per tile, at most MR, chosen so that the last tile is nearly as high as the others.
static inline long height(long rows) {
  long panels = (rows + MR - 1) / MR;
  return panels ? (rows + panels - 1) / panels : MR;
}
// Prefetches part `part` of `parts` of the cache lines of the next `rows` rows.
static inline void fetch(const float* a, long lda, long K, long rows, long part, long parts) {
  long lines = (K + LINE - 1) / LINE, all = lines * rows;
  for (long l = all * part / parts, end = all * (part + 1) / parts; l < end; l++)
    __builtin_prefetch(a + l / lines * lda + l % lines * LINE, 0, 2);
}

static inline long packed_floats(long N, long K) { return up_to(N, NR) * K + 16 * NR; }  // prefetching reads slightly past the end
// Packs the panels of w (N, K) for times_transposed, shared among the threads of the region.
static inline void pack_transposed(const float* w, long ldw, long N, long K, float* packed) {
#pragma omp for schedule(dynamic, 4)
  for (long p = 0; p < (N + NR - 1) / NR; p++)
    transpose_panel(w + p * NR * ldw, ldw, K, std::min(NR, N - p * NR), packed + p * NR * K);
}
// y (M, N) = x (M, K) w^T, w (N, K) as packed by pack_transposed.
static void times_transposed(long M, long N, long K, const float* x, long ldx, const float* packed, float* y, long ldy) {
  long h = height(M), group = std::max(1L, GROUP_FLOATS / (NR * std::min(K, KC))) * NR;
  float rest[MR * NR];
  for (long k = 0; k < K; k += KC) {
    long kn = std::min(KC, K - k);
    for (long g = 0; g < N; g += group)
      for (long i = 0; i < M; i += h)
        for (long n = g, stop = std::min(N, g + group); n < stop; n += NR) {
          long R = std::min(h, M - i);
          fetch(x + (i + h) * ldx + k, ldx, kn, i + h < M ? std::min(h, M - i - h) : 0, (n - g) / NR, (stop - g + NR - 1) / NR);
          const float* b = packed + n * K + k * NR;
          float* c = y + i * ldy + n;
          if (n + NR <= N) {
            tiles<ROWS>[R](x + i * ldx + k, ldx, b, NR, kn, c, ldy, k > 0);
            continue;
          }
          tiles<ROWS>[R](x + i * ldx + k, ldx, b, NR, kn, rest, NR, false);
          for (long r = 0; r < R; r++)
            for (long j = 0; j < N - n; j++) c[r * ldy + j] = rest[r * NR + j] + (k > 0 ? c[r * ldy + j] : 0.f);
        }
  }
}
// y (M, N) = x (M, K) w (K, N).
static void times(long M, long N, long K, const float* x, long ldx, const float* w, long ldw, float* y, long ldy) {
  long h = height(M);
  for (long k = 0; k < K; k += KC) {
    long kn = std::min(KC, K - k);
    for (long i = 0; i < M; i += h)
      for (long n = 0; n < N; n += NR) {
        fetch(x + (i + h) * ldx + k, ldx, kn, i + h < M ? std::min(h, M - i - h) : 0, n / NR, (N + NR - 1) / NR);
        put<ROWS>(std::min(h, M - i), x + i * ldx + k, ldx, w + k * ldw + n, ldw, kn, y + i * ldy + n, ldy, N - n, k > 0);
      }
  }
}
// Rows [begin, end) of c (M, N) = [c +] a^T b, a (K, M), b (K, N). The rows of a for eight tiles are packed at a time:
// rows of a are far apart, and their cache lines would be evicted before the next tile reads the rest of them.
static void transposed_times(long begin, long end, long N, long K, const float* a, long lda, const float* b, long ldb, float* c, long ldc, bool add) {
  long h = height(end - begin);
  float* packed = scratch(3, 8 * (MR * KC + LINE));
  for (long k = 0; k < K; k += KC) {
    long kn = std::min(KC, K - k), size = h * kn + LINE;  // each row is copied as a cache line, of which h floats are used
    for (long m = begin; m < end; m += 8 * h) {
      long stop = std::min(end, m + 8 * h);
      for (long q = 0; q < kn; q++) {
        const float* row = a + (k + q) * lda;
        float* out = packed;
        long i = m;
        if (q + 4 < kn)
          for (long l = m; l < stop; l += LINE) __builtin_prefetch(row + 4 * lda + l);
        for (; i + LINE <= stop; i += h, out += size) std::memcpy(out + q * h, row + i, 4 * LINE);
        for (; i < stop; i += h, out += size)
          for (long r = std::min(h, stop - i), l = 0; l < r; l++) out[q * r + l] = row[i + l];
      }
      for (long i = m; i < stop; i += h)
        for (long n = 0; n < N; n += NR)
          put<PANEL>(std::min(h, stop - i), packed + (i - m) / h * size, 0, b + k * ldb + n, ldb, kn, c + i * ldc + n, ldc, N - n, add || k > 0);
    }
  }
}
