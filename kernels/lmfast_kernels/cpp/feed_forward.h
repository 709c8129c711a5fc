// The SwiGLU feed-forward in one pass over rows: y = (silu(gate) * up) down^T with [gate, up] = x up_weight^T.
//
// Rows pass through both products in blocks whose hidden values stay in the L2 cache. Only [gate, up] is saved for the
// backward, which recomputes the hidden values together with their gradient. It finishes dx of a chunk of rows before
// adding the chunk's part of the weight gradients, so that the gradient of all rows' hidden values is never stored.
#pragma once
#include "products.h"

// Most rows of a block. Each block reads all weights: for 768 x 2048 on Zen 3 (MR = 6), 54 rows take 0.9 of the time of 24.
constexpr long BLOCK = 56 / MR * MR, BACKWARD_ROWS = 512;

extern "C" {
// x (M, D), up_weight (2F, D), down_weight (D, F) -> both (M, 2F), which may be null, and y (M, D).
void feed_forward_forward(long threads, long M, long D, long F, const float* x, const float* up_weight, const float* down_weight, float* both, float* y) {
  float* up_packed = scratch(0, packed_floats(2 * F, D) + packed_floats(D, F));
  float* down_packed = up_packed + packed_floats(2 * F, D);
  long block_rows = unit(M, threads, BLOCK);
#pragma omp parallel num_threads(threads)
  {
    pack_transposed(up_weight, D, 2 * F, D, up_packed);
    pack_transposed(down_weight, F, D, F, down_packed);
    float* hidden = scratch(1, block_rows * (both ? F : 3 * F) + V);
#pragma omp for schedule(dynamic)
    for (long i = 0; i < M; i += block_rows) {
      long rows = std::min(block_rows, M - i);
      float* b = both ? both + i * 2 * F : hidden + block_rows * F;
      times_transposed(rows, 2 * F, D, x + i * D, D, up_packed, b, 2 * F);
      for (long r = 0; r < rows; r++) {
        const float *gate = b + r * 2 * F, *up = gate + F;
        float* h = hidden + r * F;
        long j = 0;
        for (; j + V <= F; j += V) {
          vec g = load(gate + j);
          store(h + j, g * sigmoid(g) * load(up + j));
        }
        for (; j < F; j++) h[j] = (splat(gate[j]) * sigmoid(splat(gate[j])))[0] * up[j];
      }
      times_transposed(rows, D, F, hidden, F, down_packed, y + i * D, D);
    }
  }
}
// dy (M, D) -> dx (M, D), dup_weight (2F, D), ddown_weight (D, F).
void feed_forward_backward(long threads, long M, long D, long F, const float* dy, const float* x, const float* both, const float* up_weight, const float* down_weight, float* dx, float* dup_weight, float* ddown_weight) {
  long chunk = std::min(M, BACKWARD_ROWS);
  float* dboth = scratch(0, chunk * 3 * F + 16 * NR);
  float* hidden = dboth + chunk * 2 * F;
  long block_rows = unit(chunk, threads, BLOCK);
  long up_rows = unit(2 * F, threads, GRADIENT_ROWS), down_rows = unit(D, threads, GRADIENT_ROWS);
#pragma omp parallel num_threads(threads)
  {
    for (long c = 0; c < M; c += chunk) {
      long rows = std::min(chunk, M - c);
#pragma omp for schedule(dynamic)
      for (long i = 0; i < rows; i += block_rows) {
        long block = std::min(block_rows, rows - i);
        float *h = hidden + i * F, *d = dboth + i * 2 * F;
        times(block, F, D, dy + (c + i) * D, D, down_weight, F, h, F);  // dhidden, stored in hidden
        for (long r = 0; r < block; r++) {
          const float *gate = both + (c + i + r) * 2 * F, *up = gate + F;
          float *hr = h + r * F, *dgate = d + r * 2 * F, *dup = dgate + F;
          for (long j = 0; j < F; j += V) {
            long n = std::min(V, F - j);
            vec g{}, u{}, dh{};
            if (n == V) g = load(gate + j), u = load(up + j), dh = load(hr + j);
            else for (long l = 0; l < n; l++) g[l] = gate[j + l], u[l] = up[j + l], dh[l] = hr[j + l];
            vec s = sigmoid(g), silu = g * s;
            vec dg = dh * u * (s + silu * (1.f - s)), du = dh * silu, made = silu * u;
            if (n == V) store(dgate + j, dg), store(dup + j, du), store(hr + j, made);
            else for (long l = 0; l < n; l++) dgate[j + l] = dg[l], dup[j + l] = du[l], hr[j + l] = made[l];
          }
        }
        times(block, D, 2 * F, d, 2 * F, up_weight, D, dx + (c + i) * D, D);
      }
#pragma omp for schedule(dynamic) nowait
      for (long j = 0; j < 2 * F; j += up_rows)
        transposed_times(j, std::min(2 * F, j + up_rows), D, rows, dboth, 2 * F, x + c * D, D, dup_weight, D, c > 0);
#pragma omp for schedule(dynamic)
      for (long j = 0; j < D; j += down_rows)
        transposed_times(j, std::min(D, j + down_rows), F, rows, dy + c * D, D, hidden, F, ddown_weight, F, c > 0);
    }
  }
}
}
