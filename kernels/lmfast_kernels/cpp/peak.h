// The rate of the multipliers: multiply-adds on registers only, as many in parallel as in a tile of products.h.
#pragma once
#include <omp.h>

#include "vectors.h"

extern "C" {
// Total FLOP/s of all threads: the best of many windows of 0.1 to 0.5 ms within `seconds`, because other processes slow
// some of them down.
void multiply_rate(long threads, float seconds, double* rate) {
  constexpr long SUMS = MR * NV, STEPS = 1 << 16;
  double best = 0, sink = 0, before = 0, end = omp_get_wtime() + seconds;
  bool done = false;
#pragma omp parallel num_threads(threads) reduction(+ : sink)
  {
    vec sums[SUMS], factor = splat(0.999f), step = splat(1e-3f);
    for (long i = 0; i < SUMS; i++) sums[i] = splat(float(i));
    while (true) {
#pragma omp master
      before = omp_get_wtime(), done = before > end;
#pragma omp barrier
      if (done) break;
      for (long s = 0; s < STEPS; s++)
#pragma GCC unroll 32
        for (long i = 0; i < SUMS; i++) sums[i] = sums[i] * factor + step;
#pragma omp barrier
#pragma omp master
      best = std::max(best, 2. * V * SUMS * STEPS * omp_get_num_threads() / (omp_get_wtime() - before));
    }
    for (long i = 0; i < SUMS; i++) sink += sum_of(sums[i]);
  }
  *rate = std::isfinite(sink) ? best : 0;  // so that the compiler keeps the sums
}
}
