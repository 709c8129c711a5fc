// Causal self-attention on the fused projection, including the rotation of queries and keys, forward and backward.
//
// In: qkv (B, T, (H + 2 G) D), query heads, then key heads, then value heads, as the projection leaves them; cos and sin
// (T, D / 2) or null; H query heads over G key/value heads. Out: out (B, T, H D), lse (B, H, T) in base 2; backward: dqkv.
// Each thread processes whole (batch, key/value head) pairs: no sum crosses threads, so results do not depend on their
// number. MR queries are processed at a time against all keys they attend to; a row of scores is complete before its
// softmax, so nothing is rescaled. The backward stores weights and score gradients for a block of queries, 256 KB each,
// then adds the block's part to the gradients of keys and values.
#pragma once
#include "products.h"

struct Shape { long B, T, H, G, D; float scale; };

constexpr long ROWS_AHEAD = 8;  // rows of a head are in different pages, so the hardware does not prefetch them

// out (rows, D) = x (rows, D), rotated and scaled. BACK: by the negative angle, for gradients. cs, sn: of these rows.
template <bool BACK>
static void rotate(const Shape& s, long rows, const float* x, long ldx, const float* cs, const float* sn, float scale, float* out, long ldo) {
  long half = s.D / 2;
  for (long t = 0; t < rows; t++) {
    const float* r = x + t * ldx; float* o = out + t * ldo;
    for (long j = 0; j < s.D; j += LINE) BACK ? __builtin_prefetch(o + ROWS_AHEAD * ldo + j, 1) : __builtin_prefetch(r + ROWS_AHEAD * ldx + j);
    long j = 0;
    if (cs) {
      const float *c = cs + t * half, *n = sn + t * half, side = BACK ? -scale : scale;
      for (; j + V <= half; j += V) {
        vec a = load(r + j), b = load(r + j + half), u = load(c + j) * scale, v = load(n + j) * side;
        store(o + j, a * u - b * v);
        store(o + j + half, b * u + a * v);
      }
      for (; j < half; j++) {
        float a = r[j], b = r[j + half], u = c[j] * scale, v = n[j] * side;
        o[j] = a * u - b * v;
        o[j + half] = b * u + a * v;
      }
    } else {
      for (; j + V <= s.D; j += V) store(o + j, load(r + j) * scale);
      for (; j < s.D; j++) o[j] = r[j] * scale;
    }
  }
}
// Rotates all T rows into out (T, ld), whose columns from D on are zero: whole tiles.
static void rotate_into(const Shape& s, const float* x, long ldx, const float* cs, const float* sn, float scale, float* out, long ld) {
  rotate<false>(s, s.T, x, ldx, cs, sn, scale, out, ld);
  for (long t = 0; t < s.T; t++)
    for (long d = s.D; d < ld; d++) out[t * ld + d] = 0.f;
}
static void panels_of(const Shape& s, const float* x, long ld, float* out) {
  for (long p = 0; p * NR < s.T; p++) transpose_panel(x + p * NR * ld, ld, s.D, std::min(NR, s.T - p * NR), out + p * NR * s.D);
}
static inline void scores(const Shape& s, long R, const float* a, long ai, const float* panels, long keys, float* out, long ld) {
  for (long j = 0; j < keys; j += NR) tiles<ROWS>[R](a, ai, panels + j * s.D, NR, s.D, out + j, ld, false);
}
extern "C" {
void attention_forward(long threads, long B, long T, long H, long G, long D, float scale, const float* qkv, const float* cs, const float* sn, float* out, float* lse) {
  Shape s{B, T, H, G, D, scale};
  long W = (H + 2 * G) * D, Dp = up_to(D, NR), Tp = up_to(T, NR), group = H / G;
#pragma omp parallel num_threads(threads)
  {
    float* k = scratch(0, T * Dp * 3 + Tp * D + MR * Tp + MR * Dp + 16 * NR);
    float *v = k + T * Dp, *q = v + T * Dp, *kt = q + T * Dp, *p = kt + Tp * D, *o = p + MR * Tp;
#pragma omp for schedule(dynamic)
    for (long u = 0; u < B * G; u++) {
      long b = u / G, g = u % G;
      const float* base = qkv + b * T * W;
      rotate_into(s, base + (H + g) * D, W, cs, sn, 1.f, k, Dp);
      panels_of(s, k, Dp, kt);
      rotate_into(s, base + (H + G + g) * D, W, nullptr, nullptr, 1.f, v, Dp);
      for (long h = g * group; h < (g + 1) * group; h++) {
        rotate_into(s, base + h * D, W, cs, sn, scale * LOG2_E, q, Dp);
        for (long i = 0; i < T; i += MR) {
          long R = std::min(MR, T - i), keys = i + R;
          scores(s, R, q + i * Dp, Dp, kt, keys, p, Tp);
          float inv[MR];
          for (long r = 0; r < R; r++) {
            float* row = p + r * Tp;
            long n = i + r + 1, last = (n - 1) / V * V;
            store(row + last, pick(LANE < (int)(n - last), load(row + last), splat(-INFINITY)));
            vec top = splat(-INFINITY), sum = vec{};
            long j = 0;
            for (; j < n; j += V) { vec x = load(row + j); top = pick(x > top, x, top); }
            float m = largest_of(top);
            for (j = 0; j < n; j += V) { vec x = exp2_of(load(row + j) - m); sum += x; store(row + j, x); }
            for (; j < keys; j += V) store(row + j, vec{});
            float l = sum_of(sum);
            inv[r] = 1.f / l;
            lse[(b * H + h) * T + i + r] = m + std::log2(l);
          }
          for (long d = 0; d < Dp; d += NR) tiles<ROWS>[R](p, Tp, v + d, Dp, keys, o + d, Dp, false);
          for (long r = 0; r < R; r++) {
            float* y = out + ((b * T + i + r) * H + h) * D;
            long d = 0;
            for (; d + V <= D; d += V) store(y + d, load(o + r * Dp + d) * inv[r]);
            for (; d < D; d++) y[d] = o[r * Dp + d] * inv[r];
          }
        }
      }
    }
  }
}
void attention_backward(long threads, long B, long T, long H, long G, long D, float scale, const float* qkv, const float* cs, const float* sn, const float* out, const float* lse, const float* dout, float* dqkv) {
  Shape s{B, T, H, G, D, scale};
  long W = (H + 2 * G) * D, Dp = up_to(D, NR), Tp = up_to(T, NR), group = H / G;
  long Q = std::max(1L, std::min((T + MR - 1) / MR, 65536 / (MR * Tp))) * MR;  // queries whose weights fit 256 KB
#pragma omp parallel num_threads(threads)
  {
    float* k = scratch(0, T * Dp * 5 + 2 * Tp * D + 2 * Q * Tp + MR * Dp + 16 * NR);
    float *q = k + T * Dp, *dk = q + T * Dp, *dv = dk + T * Dp, *dod = dv + T * Dp, *kt = dod + T * Dp, *vt = kt + Tp * D, *p = vt + Tp * D, *ds = p + Q * Tp, *dq = ds + Q * Tp;
#pragma omp for schedule(dynamic)
    for (long u = 0; u < B * G; u++) {
      long b = u / G, g = u % G;
      const float* base = qkv + b * T * W;
      float* dbase = dqkv + b * T * W;
      rotate_into(s, base + (H + g) * D, W, cs, sn, 1.f, k, Dp);
      panels_of(s, k, Dp, kt);
      panels_of(s, base + (H + G + g) * D, W, vt);
      for (long h = g * group; h < (g + 1) * group; h++) {
        rotate_into(s, base + h * D, W, cs, sn, scale * LOG2_E, q, Dp);
        rotate_into(s, dout + b * T * H * D + h * D, H * D, nullptr, nullptr, 1.f, dod, Dp);
        for (long i0 = 0; i0 < T; i0 += Q) {
          long stop = std::min(T, i0 + Q);
          for (long i = i0; i < stop; i += MR) {
            long R = std::min(MR, T - i), keys = i + R;
            float *pp = p + (i - i0) * Tp, *dd = ds + (i - i0) * Tp;
            const float* dor = dod + i * Dp;
            scores(s, R, q + i * Dp, Dp, kt, keys, pp, Tp);
            scores(s, R, dor, Dp, vt, keys, dd, Tp);
            for (long r = 0; r < R; r++) {
              float *x = pp + r * Tp, *y = dd + r * Tp;
              const float *o1 = out + ((b * T + i + r) * H + h) * D, *o2 = dor + r * Dp;
              vec products{};
              long d = 0;
              for (; d + V <= D; d += V) products += load(o1 + d) * load(o2 + d);
              float delta = sum_of(products);
              for (; d < D; d++) delta += o1[d] * o2[d];
              float l = lse[(b * H + h) * T + i + r];
              long n = i + r + 1, whole = n / V * V;
              for (long j = 0; j < whole; j += V) { vec e = exp2_of(load(x + j) - l); store(x + j, e); store(y + j, e * (load(y + j) - delta)); }
              long j = whole;
              if (whole < n) { ivec in = LANE < (int)(n - whole); vec e = pick(in, exp2_of(load(x + j) - l), vec{}); store(x + j, e); store(y + j, pick(in, e * (load(y + j) - delta), vec{})); j += V; }
              for (; j < keys; j += V) { store(x + j, vec{}); store(y + j, vec{}); }
            }
            for (long d = 0; d < Dp; d += NR) tiles<ROWS>[R](dd, Tp, k + d, Dp, keys, dq + d, Dp, false);
            rotate<true>(s, R, dq, Dp, cs ? cs + i * (D / 2) : cs, sn ? sn + i * (D / 2) : sn, scale, dbase + i * W + h * D, W);
          }
          for (long j = 0; j < stop; j += MR) {
            long R = std::min(MR, T - j), from = std::max(i0, j);
            bool add = h > g * group || i0 > j;  // otherwise these queries are the first that attend to the keys
            for (long d = 0; d < Dp; d += NR) {
              tiles<COLUMNS>[R](p + (from - i0) * Tp + j, Tp, dod + from * Dp + d, Dp, stop - from, dv + j * Dp + d, Dp, add);
              tiles<COLUMNS>[R](ds + (from - i0) * Tp + j, Tp, q + from * Dp + d, Dp, stop - from, dk + j * Dp + d, Dp, add);
            }
          }
        }
      }
      rotate<true>(s, T, dk, Dp, cs, sn, LN_2, dbase + (H + g) * D, W);
      rotate<true>(s, T, dv, Dp, nullptr, nullptr, 1.f, dbase + (H + G + g) * D, W);
    }
  }
}
}
