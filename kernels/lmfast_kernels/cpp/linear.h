// y = x w^T and its two gradients, distributed over torch's OpenMP threads.
#pragma once
#include "products.h"

constexpr long LINEAR_ROWS = 256;

extern "C" {
// y (M, N) = x (M, K) w (N, K)^T.
void linear_forward(long threads, long M, long N, long K, const float* x, const float* w, float* y) {
  float* packed = scratch(0, packed_floats(N, K));
  long rows = unit(M, threads, LINEAR_ROWS);
#pragma omp parallel num_threads(threads)
  {
    pack_transposed(w, K, N, K, packed);
#pragma omp for schedule(dynamic)
    for (long i = 0; i < M; i += rows)
      times_transposed(std::min(rows, M - i), N, K, x + i * K, K, packed, y + i * N, N);
  }
}
// dx (M, K) = dy (M, N) w, and dw (N, K) = dy^T x. Either may be null.
void linear_backward(long threads, long M, long N, long K, const float* dy, const float* x, const float* w, float* dx, float* dw) {
  long rows = unit(M, threads, LINEAR_ROWS), gradient_rows = unit(N, threads, GRADIENT_ROWS);
#pragma omp parallel num_threads(threads)
  {
    if (dx) {
#pragma omp for schedule(dynamic) nowait
      for (long i = 0; i < M; i += rows) times(std::min(rows, M - i), K, N, dy + i * N, N, w, K, dx + i * K, K);
    }
    if (dw) {
#pragma omp for schedule(dynamic)
      for (long n = 0; n < N; n += gradient_rows)
        transposed_times(n, std::min(N, n + gradient_rows), K, M, dy, N, x, K, dw, K, false);
    }
  }
}
}
