// The output layer and its loss. The logits of a chunk are overwritten by their gradient while they are in cache.
#pragma once
#include "products.h"

constexpr long LOSS_ROWS = 512, BLOCK_ROWS = 2 * MR;

extern "C" {
// hidden (M, D), weight (W, D), targets (M) -> losses (M); if dhidden (M, D) is given, also dhidden and dweight (W, D).
// A target outside [0, W) that is not `ignore` gives NaN.
void cross_entropy(long threads, long M, long D, long W, const float* hidden, const float* weight, const long long* targets, long long ignore, float z_loss, float* losses, float* dhidden, float* dweight) {
  long ld = up_to(W, V) + V;  // with a power-of-two stride, rows would share cache sets
  long chunk = std::min(M, LOSS_ROWS);
  float* packed = scratch(0, packed_floats(W, D));
  float* logits = scratch(1, chunk * ld);
  long gradient_rows = unit(W, threads, GRADIENT_ROWS);
#pragma omp parallel num_threads(threads)
  {
    pack_transposed(weight, D, W, D, packed);
    for (long c = 0; c < M; c += chunk) {
      long rows = std::min(chunk, M - c);
#pragma omp for schedule(dynamic)
      for (long i = 0; i < rows; i += BLOCK_ROWS) {
        long block = std::min(BLOCK_ROWS, rows - i);
        times_transposed(block, W, D, hidden + (c + i) * D, D, packed, logits + i * ld, ld);
        for (long r = 0; r < block; r++) {
          float* x = logits + (i + r) * ld;
          for (long j = W; j < ld; j++) x[j] = -INFINITY;
          vec top = splat(-INFINITY), total = vec{};
          for (long j = 0; j < W; j += V) {
            vec y = load(x + j);
            top = pick(y > top, y, top);
          }
          long long target = targets[c + i + r];
          bool counted = target != ignore, within = target >= 0 && target < W;
          float most = largest_of(top), chosen = within ? x[target] : NAN;
          for (long j = 0; j < W; j += V) {
            vec e = exp2_of((load(x + j) - most) * LOG2_E);
            total += e;
            store(x + j, e);
          }
          float sum = sum_of(total), log_sum = std::log(sum), lse = most + log_sum;
          losses[c + i + r] = counted ? log_sum - (chosen - most) + z_loss * lse * lse : 0.f;
          if (!dhidden) continue;
          float factor = counted ? (1.f + 2.f * z_loss * lse) / sum : 0.f;
          for (long j = 0; j < W; j += V) store(x + j, load(x + j) * factor);
          if (counted && within) x[target] -= 1.f;
        }
        if (dhidden) times(block, D, W, logits + i * ld, ld, weight, D, dhidden + (c + i) * D, D);
      }
      if (!dhidden) continue;
#pragma omp for schedule(dynamic)
      for (long j = 0; j < W; j += gradient_rows)
        transposed_times(j, std::min(W, j + gradient_rows), D, rows, logits, ld, hidden + c * D, D, dweight, D, c > 0);
    }
  }
}
}
