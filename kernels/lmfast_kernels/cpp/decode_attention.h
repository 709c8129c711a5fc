// Attention of the rows of a pass over the cache: norms, rotation, cache update, softmax.
//
// In: queries, keys and values of the rows in Plan::projected. Out: keys and values in the cache, and Plan::attended. Keys
// are stored in panels of 16, values in rows, so that scores and outputs are products of panels.h. The result of a row does
// not depend on what else is in the pass: a key that a row does not attend to has weight 0.
#pragma once
#include "plan.h"

// out = x / rms(x) * weight over one row; `out` may be x.
static void rms_norm(const float* x, const float* weight, long n, float eps, float* out) {
  vec lanes[4] = {};
  long i = 0;
  for (; i + 4 * V <= n; i += 4 * V)
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) lanes[j] += load(x + i + j * V) * load(x + i + j * V);
  float total = sum_of((lanes[0] + lanes[1]) + (lanes[2] + lanes[3]));
  for (; i < n; i++) total += x[i] * x[i];
  float scale = 1 / std::sqrt(total / n + eps);
  for (i = 0; i + V <= n; i += V) store(out + i, load(x + i) * scale * load(weight + i));
  for (; i < n; i++) out[i] = x[i] * scale * weight[i];
}

// Normalises one query or key in place, rotates it by its position and multiplies it by `scale`.
static void place_head(const Plan& p, float* x, const float* norm, long position, float scale, float* __restrict out) {
  long n = p.head_dim, half = n / 2;
  if (norm) rms_norm(x, norm, n, p.eps, x);
  if (!p.rope) {
    for (long i = 0; i < n; i++) out[i] = x[i] * scale;
    return;
  }
  const float *cos = p.cos + position * half, *sin = p.sin + position * half;
  for (long i = 0; i < half; i++) {
    float first = x[i] * scale, second = x[i + half] * scale;
    out[i] = first * cos[i] - second * sin[i];
    out[i + half] = second * cos[i] + first * sin[i];
  }
}

static inline long row_width(const Plan& p) { return padded((p.num_heads + 2 * p.num_kv_heads) * p.head_dim); }
// Where a (layer, sequence, key/value head) begins, in heads.
static inline long head_of(const Plan& p, long layer, long owner, long g) { return (layer * p.batch + owner) * p.num_kv_heads + g; }

// Writes the keys and values of the rows [begin, end) of a sequence to the cache.
static void fill_cache(const Plan& p, const Own& own, long layer, long owner, long g, long begin, long end) {
  const Layer& l = p.layers[layer];
  long n = p.head_dim;
  for (long r = begin; r < end; r++) {
    long position = p.positions[r];
    float* key = p.projected + r * row_width(p) + (p.num_heads + g) * n;
    float* panel = p.keys + head_of(p, layer, owner, g) * cached_keys(p) + position / W * W * n + position % W;
    place_head(p, key, l.k_norm, position, 1, own.queries);
    for (long i = 0; i < n; i++) panel[i * W] = own.queries[i];
    const float* value = key + p.num_kv_heads * n;
    float* out = p.values + head_of(p, layer, owner, g) * cached_values(p) + position * value_width(p);
    const float* learned = l.value_table ? l.value_table + (p.ids[r] * p.num_kv_heads + g) * n : nullptr;
    for (long i = 0; i < n; i++) out[i] = learned ? value[i] + l.value_weights[g] * learned[i] : value[i];
    for (long i = n; i < value_width(p); i++) out[i] = 0;
  }
}

// Replaces scores [first, last) of a row, in units of log 2, by unnormalised weights, and the others by 0, n in all; returns
// their sum.
static float softmax_weights(float* scores, long first, long last, long n) {
  for (long i = 0; i < first; i++) scores[i] = -INFINITY;
  for (long i = last; i < n; i++) scores[i] = -INFINITY;
  exp_weights(scores, n, largest(scores, n), 1, scores);
  return sum_floats(scores, n);
}

// Attention of queries [begin, end) of a key/value head, at most QUERIES: query q is head q % group of the group in row q / group.
static void attend(const Plan& p, const Own& own, long layer, long owner, long g, long begin, long end) {
  const Layer& l = p.layers[layer];
  long n = p.head_dim, group = p.num_heads / p.num_kv_heads, count = end - begin, width = value_width(p);
  float scale = LOG2_E / std::sqrt((float)n);
  auto position = [&](long q) { return p.positions[q / group]; };
  auto oldest = [&](long q) { return std::max(0L, position(q) + 1 - l.span); };
  for (long q = begin; q < end; q++) {
    float* x = p.projected + q / group * row_width(p) + (g * group + q % group) * n;
    place_head(p, x, l.q_norm, position(q), scale, own.queries + (q - begin) * n);
  }
  // Keys that any of the queries attends to, in whole panels.
  long first = oldest(begin) / W * W, last = position(end - 1) + 1, panels = (last - first + W - 1) / W, ld = padded(p.max_length);
  const float* keys = p.keys + head_of(p, layer, owner, g) * cached_keys(p) + first * n;
  panel_products(own.queries, n, count, keys, W * n, W, n, panels, own.scores, ld, false);
  float totals[QUERIES];
  for (long q = begin; q < end; q++)
    totals[q - begin] = softmax_weights(own.scores + (q - begin) * ld, oldest(q) - first, position(q) + 1 - first, panels * W);
  const float* values = p.values + head_of(p, layer, owner, g) * cached_values(p) + first * width;
  panel_products(own.scores, ld, count, values, W, width, last - first, width / W, own.outputs, width, false);
  for (long q = begin; q < end; q++) {
    float *out = p.attended + q / group * padded(p.num_heads * n) + (g * group + q % group) * n, inverse = 1 / totals[q - begin];
    for (long i = 0; i < n; i++) out[i] = own.outputs[(q - begin) * width + i] * inverse;
  }
}
// The queries of the rows [begin, end) of a sequence.
static void attend_rows(const Plan& p, const Own& own, long layer, long owner, long g, long begin, long end) {
  long group = p.num_heads / p.num_kv_heads;
  for (long q = begin * group; q < end * group; q += QUERIES)
    attend(p, own, layer, owner, g, q, std::min(end * group, q + QUERIES));
}
