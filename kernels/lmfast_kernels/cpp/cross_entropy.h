// The output layer and its loss. The logits of a chunk are overwritten by their gradient while they are in cache.
#pragma once
#include "products.h"

// Most rows of a block: their logits become their gradient in the L2 cache; without gradients they are only read. Each block
// reads all weights, from memory if the vocabulary is large: for 32,000 x 768 on Zen 3 (MR = 6), 24 rows take 0.8 of the time
// of 12 with gradients, and 54 rows 0.7 without.
constexpr long LOSS_ROWS = 512, GRADIENT_BLOCK = 28 / MR * MR, LOSS_BLOCK = 56 / MR * MR;

extern "C" {
// hidden (M, D), weight (W, D), targets (M) -> losses (M); if dhidden (M, D) is given, also dhidden and dweight (W, D).
// A target outside [0, W) that is not `ignore` gives NaN.
void cross_entropy(long threads, long M, long D, long W, const float* hidden, const float* weight, const long long* targets, long long ignore, float z_loss, float* losses, float* dhidden, float* dweight) {
  long ld = up_to(W, V) + V;  // with a power-of-two stride, rows would share cache sets
  long chunk = dhidden ? std::min(M, LOSS_ROWS) : M;
  long block_rows = unit(chunk, threads, dhidden ? GRADIENT_BLOCK : LOSS_BLOCK);
  float* packed = scratch(0, packed_floats(W, D));
  float* logits = dhidden ? scratch(1, chunk * ld) : nullptr;
  long gradient_rows = unit(W, threads, GRADIENT_ROWS);
#pragma omp parallel num_threads(threads)
  {
    pack_transposed(weight, D, W, D, packed);
    float* own = dhidden ? nullptr : scratch(1, block_rows * ld);
    for (long c = 0; c < M; c += chunk) {
      long rows = std::min(chunk, M - c);
#pragma omp for schedule(dynamic)
      for (long i = 0; i < rows; i += block_rows) {
        long block = std::min(block_rows, rows - i);
        float* part = dhidden ? logits + i * ld : own;
        times_transposed(block, W, D, hidden + (c + i) * D, D, packed, part, ld);
        for (long r = 0; r < block; r++) {
          float* x = part + r * ld;
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
        if (dhidden) times(block, D, W, part, ld, weight, D, dhidden + (c + i) * D, D);
      }
      if (!dhidden) continue;
#pragma omp for schedule(dynamic)
      for (long j = 0; j < W; j += gradient_rows)
        transposed_times(j, std::min(W, j + gradient_rows), D, rows, logits, ld, hidden + c * D, D, dweight, D, c > 0);
    }
  }
}
}
