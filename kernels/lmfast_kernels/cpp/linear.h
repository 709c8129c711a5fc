// y = x w^T and its two gradients, distributed over torch's OpenMP threads.
#pragma once
#include "products.h"

extern "C" {
// y (M, N) = x (M, K) w (N, K)^T.
void linear_forward(long threads, long M, long N, long K, const float* x, const float* w, float* y) {
  float* packed = scratch(0, packed_floats(N, K));
#pragma omp parallel num_threads(threads)
  {
    long t = omp_get_thread_num(), all = omp_get_num_threads(), begin, end;
    pack_transposed(w, K, N, K, packed, t, all);
#pragma omp barrier
    share(M, t, all, begin, end);
    times_transposed(end - begin, N, K, x + begin * K, K, packed, y + begin * N, N);
  }
}
// dx (M, K) = dy (M, N) w, and dw (N, K) = dy^T x. Either may be null.
void linear_backward(long threads, long M, long N, long K, const float* dy, const float* x, const float* w, float* dx, float* dw) {
#pragma omp parallel num_threads(threads)
  {
    long t = omp_get_thread_num(), all = omp_get_num_threads(), begin, end;
    share(M, t, all, begin, end);
    if (dx) times(end - begin, K, N, dy + begin * N, N, w, K, dx + begin * K, K);
    share(N, t, all, begin, end);
    if (dw) transposed_times(begin, end, K, M, dy, N, x, K, dw, K, false);
  }
}
}
