// What the threads of a decoder share: the model's sizes and weights, buffers, and the current pass.
//
// Filled by lmfast/inference/cpu/plan.py, whose ctypes structures repeat these; buffers are laid out in decoder.cpp.
#pragma once
#include "decode_sampling.h"
#include "panels_int8.h"

enum Norm : long { PRE, POST, NONE };
enum Activation : long { SWIGLU, SILU, RELU2 };
// Pack the weights; read rows into the cache; also predict each row's next id; or read rows and score their targets.
enum Purpose : long { PACK, READ, PREDICT, SCORE };

struct Layer {
  Matrix qkv, out, gate, up, down;  // gate: only with SwiGLU
  const float *attention_norm, *ffn_norm, *q_norm, *k_norm, *qkv_bias;  // each may be null
  const float *value_table, *value_weights;  // (vocab_size, kv_heads * head_dim), (kv_heads,): value embeddings, or null
  long span;  // the most cached rows that a query attends to
};

// What is kept of a row's logits in a tile of columns: the largest and its first id, the sum of exp(logit - largest), the target's.
struct Part {
  float largest, sum, target;
  int chosen;
};

struct Plan {
  long d_model, num_layers, num_heads, num_kv_heads, head_dim, ffn, vocab, max_length;
  long norm, rope, activation, parallel, int8;
  long threads, batch, max_rows;
  float eps, softcap;  // softcap 0: none
  Layer* layers;
  Matrix head;
  const float *embedding, *position_table, *final_norm, *cos, *sin;  // position_table: added to the embedding, or null
  const Sampling* samplings;  // (batch,)
  const long* unused;         // ids that are never chosen
  long num_unused;
  // The pass. Sequence owners[s] has rows [begins[s], begins[s + 1]). PREDICT: steps[s] is the number of its step, -1 if none.
  const long *ids, *positions, *owners, *begins, *steps, *targets;  // targets: SCORE: the id after each row, or -1
  long* chosen;
  double* logprobs;  // of the targets, natural logarithms
  long num_rows, num_sequences, purpose, team, passed;  // threads of the pass; arrivals at barriers before it
  long* sync;
  // Buffers, laid out by lay_out. Rows of a buffer are `padded(width)` floats apart.
  float *keys, *values;  // (layers, batch, kv_heads, ...): panels of W keys (max_length, head_dim); rows of values
  float *stream, *projected, *attended, *delta, *hidden, *logits;
  Part* parts;  // (tiles of the vocabulary, max_rows)
  float* own;   // each thread's buffers (Own)
};

// Floats between rows: whole panels, and not a power of two, because such rows would compete for the same cache lines.
static inline long padded(long width) { return up_to(width, W) + W; }
static inline long value_width(const Plan& p) { return up_to(p.head_dim, W); }
static inline long cached_keys(const Plan& p) { return up_to(p.max_length, W) * p.head_dim; }
static inline long cached_values(const Plan& p) { return p.max_length * value_width(p); }
// Columns of a tile of logits that a thread scores at a time: those of 128 rows fit its L2 cache.
static inline long tile_width(const Plan& p) { return std::min<long>(256, up_to(p.ffn, W)); }
static inline long num_tiles(const Plan& p) { return (p.vocab + tile_width(p) - 1) / tile_width(p); }
static inline long widest(const Plan& p) { return std::max(std::max(p.d_model, p.ffn), p.num_heads * p.head_dim); }

// One thread's buffers: the input of a sublayer; its rows in 8 bits; up (before the activation); of a block of queries, queries,
// scores and outputs; of a row of logits, weights and a heap.
struct Own {
  float *normed, *up, *queries, *scores, *outputs, *weights;
  RowPair* quantised;
  long* heap;
};
constexpr long QUERIES = MR;  // queries of a head that are attended together
static long own_floats(const Plan& p, float* memory, Own& own) {
  long used = 0;
  auto take = [&](long floats) {
    float* here = memory + used;
    used += up_to(floats, W);
    return here;
  };
  own.normed = take(p.max_rows * padded(p.d_model));
  own.up = take(p.max_rows * padded(p.ffn));
  own.queries = take(QUERIES * p.head_dim);
  own.scores = take(QUERIES * padded(p.max_length));
  own.outputs = take(QUERIES * value_width(p));
  own.weights = take(p.vocab);
  own.quantised = (RowPair*)take(p.int8 ? p.max_rows * pairs_of(widest(p)) * (long)sizeof(RowPair) / 4 : 0);
  own.heap = (long*)take(2 * p.vocab);
  return used;
}
static inline Own own_of(const Plan& p, long t) {
  Own own, sizes;
  own_floats(p, p.own + t * own_floats(p, nullptr, sizes), own);
  return own;
}
// The range of `count` outputs that this rank of the pass computes, in whole units except for the last.
struct Range {
  long begin, end;
};
static inline Range share(long count, long unit, long rank, long threads) {
  long units = (count + unit - 1) / unit;
  return {std::min(count, units * rank / threads * unit), std::min(count, units * (rank + 1) / threads * unit)};
}
