// Sampling of one row, as lmfast/inference/sampling.py does it for tensors, without sorting all ids.
//
// In: logits of a row. Out: an id. The random numbers are the same. The top-p set may differ in an id at its boundary, due to
// rounding.
#pragma once
#include <cstdint>

#include "vectors.h"

struct Sampling {
  float temperature, top_p;
  long top_k;  // 0: all
  uint64_t key;
  long row;  // of the random numbers: that of the sequence in its batch or request
};

// The output function of SplitMix64 (Steele et al. 2014).
static inline uint64_t mix(uint64_t state) {
  state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9u;
  state = (state ^ (state >> 27)) * 0x94D049BB133111EBu;
  return state ^ (state >> 31);
}
constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15u;
// An Exp(1) random number for a token of the row with this key.
static inline float exponential(uint64_t key, long token) {
  return -std::log((float(mix(key + uint64_t(token) * GOLDEN) >> 41) + .5f) * 0x1p-23f);
}

static inline float largest(const float* x, long n) {
  float most = -INFINITY;
  long i = 0;
  if (n >= V) {
    vec lanes = load(x);
    for (i = V; i + V <= n; i += V) {
      vec here = load(x + i);
      lanes = pick(here > lanes, here, lanes);
    }
    most = largest_of(lanes);
  }
  for (; i < n; i++) most = x[i] > most ? x[i] : most;
  return most;
}
static inline float sum_floats(const float* x, long n) {
  vec lanes = vec{};
  long i = 0;
  for (; i + V <= n; i += V) lanes += load(x + i);
  float total = sum_of(lanes);
  for (; i < n; i++) total += x[i];
  return total;
}
// weights = exp2((x - top) * scale)
static inline void exp_weights(const float* x, long n, float top, float scale, float* weights) {
  long i = 0;
  for (; i + V <= n; i += V) store(weights + i, exp2_of((load(x + i) - top) * scale));
  for (; i < n; i++) weights[i] = exp2_of(splat((x[i] - top) * scale))[0];
}

static inline bool ranks_above(const float* w, long i, long j) { return w[i] > w[j] || (w[i] == w[j] && i < j); }
// Restores the heap heap[:count] after a change at `place`: larger weights first, lower ids first on ties.
static void sift_down(const float* w, long* heap, long count, long place) {
  long moving = heap[place];
  while (2 * place + 1 < count) {
    long child = 2 * place + 1;
    if (child + 1 < count && ranks_above(w, heap[child + 1], heap[child])) child++;
    if (!ranks_above(w, heap[child], moving)) break;
    heap[place] = heap[child];
    place = child;
  }
  heap[place] = moving;
}

extern "C" {
// Keeps the fewest largest weights that sum to `wanted`, at most `at_most` plus ties; sets the others to 0. Ignores weights
// below `floor`. A heap yields the largest one by one, so only the kept ones are sorted, which are few for a trained model.
void keep_largest(float* w, long n, float floor, long at_most, double wanted, long* heap) {
  long count = 0, taken = 0;
  for (long i = 0; i < n; i++)
    if (w[i] >= floor && w[i] > 0) heap[count++] = i;
    else w[i] = 0;
  for (long place = count / 2 - 1; place >= 0; place--) sift_down(w, heap, count, place);
  double total = 0;
  float last = 0;
  while (count > 0 && total < wanted && (taken < at_most || w[heap[0]] == last)) {
    last = w[heap[0]];
    total += last;
    taken++;
    heap[0] = heap[--count];
    sift_down(w, heap, count, 0);
  }
  for (long place = 0; place < count; place++) w[heap[place]] = 0;
}

// The next id of a sequence at `step`; weights and heap: memory for n values.
long pick_id(const float* logits, long n, const Sampling* sampling, long step, float* weights, long* heap) {
  float top = largest(logits, n);
  if (sampling->temperature == 0) {
    for (long i = 0; i < n; i++)
      if (logits[i] == top) return i;
    return 0;
  }
  exp_weights(logits, n, top, float(1.0 / sampling->temperature) * LOG2_E, weights);
  if (0 < sampling->top_k && sampling->top_k < n) keep_largest(weights, n, 0, sampling->top_k, INFINITY, heap);
  if (sampling->top_p < 1) {
    double total = sum_floats(weights, n);
    // Weights below this sum to less than the probability that top-p removes.
    keep_largest(weights, n, float((1. - sampling->top_p) * total / n), n, sampling->top_p * total, heap);
  }
  long chosen = 0;
  float best = -1;
  uint64_t key = mix(mix(sampling->key + uint64_t(step) * GOLDEN) + uint64_t(sampling->row));
  for (long i = 0; i < n; i++)
    if (weights[i] > 0) {
      float value = weights[i] / exponential(key, i);
      if (value > best) chosen = i, best = value;
    }
  return chosen;
}
}
