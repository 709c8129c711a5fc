// A team of threads that reads rows of ids through a transformer into a cache, and predicts or scores the ids that follow.
//
// One pass: between barriers, each thread computes its share of the outputs of a product. In: a Plan (plan.h).
#include "decode_attention.h"
#include "team.h"

constexpr long ATTEND_ROWS = 16;  // rows of a prompt that a thread attends to at a time

static long matrix_bytes(const Plan& p, const Matrix& m) { return p.int8 ? int8_bytes(m) : float_bytes(m); }
static void pack(const Plan& p, const Matrix& m, long rank, long threads) {
  Range mine = share(m.outputs, W, rank, threads);
  (p.int8 ? pack_int8 : pack_floats)(m, mine.begin, mine.end);
}
template <class F>
static void for_each_matrix(Plan& p, F f) {
  for (long i = 0; i < p.num_layers; i++) {
    Layer& l = p.layers[i];
    for (Matrix* m : {&l.qkv, &l.out, &l.gate, &l.up, &l.down})
      if (m->weight) f(*m);
  }
  f(p.head);
}

// Rows that a product reads, in 8 bits where the weights are.
struct Input {
  const float* rows;
  long ld;
};
static Input quantised(const Plan& p, const Own& own, Input x, long width) {
  if (p.int8)
    for (long r = 0; r < p.num_rows; r++) quantise(x.rows + r * x.ld, width, own.quantised + r * pairs_of(width));
  return x;
}
static void multiply(const Plan& p, const Own& own, const Matrix& m, Input x, Range mine, float* out, long ldo) {
  if (p.int8) times_int8(m, own.quantised, pairs_of(m.inputs), p.num_rows, mine.begin, mine.end, out, ldo);
  else times_floats(m, x.rows, x.ld, p.num_rows, mine.begin, mine.end, out, ldo);
}
// A copy of the residual stream for this thread, normalised by `norm` unless that is null.
static Input sublayer_input(const Plan& p, const Own& own, const float* norm) {
  long ld = padded(p.d_model);
  for (long r = 0; r < p.num_rows; r++)
    if (norm) rms_norm(p.stream + r * ld, norm, p.d_model, p.eps, own.normed + r * ld);
    else std::memcpy(own.normed + r * ld, p.stream + r * ld, 4 * p.d_model);
  return quantised(p, own, {own.normed, ld}, p.d_model);
}
// hidden = activation of up, which SwiGLU multiplies with gated; columns [begin, end), in whole vectors.
static void activate(const Plan& p, const float* gate_or_up, const float* up, Range mine) {
  long ld = padded(p.ffn);
  for (long r = 0; r < p.num_rows; r++)
    for (long i = r * ld + mine.begin, end = r * ld + up_to(mine.end, W); i < end; i += V) {
      vec x = load(gate_or_up + i), active = p.activation == RELU2 ? pick(x > 0.f, x * x, vec{}) : x * sigmoid(x);
      store(p.hidden + i, p.activation == SWIGLU ? active * load(up + i) : active);
    }
}
// stream = base + delta in columns [begin, end); base: the stream, or with post-norm the sublayer's input.
static void add_delta(const Plan& p, Input x, Range mine) {
  const float* base = p.norm == POST ? x.rows : p.stream;
  for (long r = 0, ld = padded(p.d_model); r < p.num_rows; r++)
    for (long i = r * ld + mine.begin; i < r * ld + mine.end; i++) p.stream[i] = base[i] + p.delta[i];
}
static void embed(const Plan& p, long rank, long threads) {
  Range mine = share(p.num_rows, 1, rank, threads);
  for (long r = mine.begin; r < mine.end; r++) {
    float* row = p.stream + r * padded(p.d_model);
    std::memcpy(row, p.embedding + p.ids[r] * p.d_model, 4 * p.d_model);
    const float* added = p.position_table ? p.position_table + p.positions[r] * p.d_model : nullptr;
    for (long i = 0; added && i < p.d_model; i++) row[i] += added[i];
  }
}
static void attention(const Plan& p, const Own& own, long layer, long rank, long threads, long& passed) {
  if (p.num_rows == p.num_sequences) {  // a row per sequence
    Range mine = share(p.num_sequences * p.num_kv_heads, 1, rank, threads);
    for (long pair = mine.begin; pair < mine.end; pair++) {
      long s = pair / p.num_kv_heads, g = pair % p.num_kv_heads;
      fill_cache(p, own, layer, p.owners[s], g, p.begins[s], p.begins[s + 1]);
      attend_rows(p, own, layer, p.owners[s], g, p.begins[s], p.begins[s + 1]);
    }
    return;
  }
  for (int attending = 0; attending < 2; attending++) {
    for (long s = 0, unit = 0; s < p.num_sequences; s++)
      for (long g = 0; g < p.num_kv_heads; g++)
        for (long r = p.begins[s]; r < p.begins[s + 1]; r += ATTEND_ROWS)
          if (unit++ % threads == rank) {
            auto act = [&](auto f) { f(p.owners[s], g, r, std::min(p.begins[s + 1], r + ATTEND_ROWS)); };
            if (attending) act([&](long b, long g, long from, long to) { attend_rows(p, own, layer, b, g, from, to); });
            else act([&](long b, long g, long from, long to) { fill_cache(p, own, layer, b, g, from, to); });
          }
    if (!attending) barrier(p.sync, passed, threads);
  }
}
// Row r of the residual stream, normalised for the head, as row `place` of this thread's copy.
static void prepare_for_head(const Plan& p, const Own& own, long r, long place) {
  long ld = padded(p.d_model);
  if (p.final_norm) rms_norm(p.stream + r * ld, p.final_norm, p.d_model, p.eps, own.normed + place * ld);
  else std::memcpy(own.normed + place * ld, p.stream + r * ld, 4 * p.d_model);
}
// The logits of this thread's columns after the last row of each sequence that has a step, then the next ids of its part of those.
static void predict(const Plan& p, const Own& own, long rank, long threads, long& passed) {
  long ld = padded(p.vocab), count = 0;
  for (long s = 0; s < p.num_sequences; s++)
    if (p.steps[s] >= 0) prepare_for_head(p, own, p.begins[s + 1] - 1, count++);
  Plan last = p;
  last.num_rows = count;
  Range mine = share(p.vocab, W, rank, threads);
  multiply(last, own, p.head, quantised(last, own, {own.normed, padded(p.d_model)}, p.d_model), mine, p.logits, ld);
  if (p.softcap > 0)
    for (long k = 0; k < count; k++)
      for (long i = k * ld + mine.begin, end = k * ld + up_to(mine.end, W); i < end; i += V)
        store(p.logits + i, p.softcap * tanh_of(load(p.logits + i) / p.softcap));
  barrier(p.sync, passed, threads);
  mine = share(count, 1, rank, threads);
  for (long s = 0, k = 0; s < p.num_sequences; s++) {
    if (p.steps[s] < 0) continue;
    if (mine.begin <= k && k < mine.end) {
      float* logits = p.logits + k * ld;
      for (long i = 0; i < p.num_unused; i++) logits[p.unused[i]] = -INFINITY;
      p.chosen[k] = pick_id(logits, p.vocab, p.samplings + p.owners[s], p.steps[s], own.weights, own.heap);
    }
    k++;
  }
}
// The log-probabilities of the targets of the rows that have one, and the most likely ids there, over the whole vocabulary.
// Only a Part of each tile of logits remains, so no row of them is held. Parts are added in order, whichever thread has which.
static void score(const Plan& p, const Own& own, long rank, long threads, long& passed) {
  long ld = padded(p.d_model), width = tile_width(p), ldo = width + W, count = 0;
  for (long r = 0; r < p.num_rows; r++)
    if (p.targets[r] >= 0) prepare_for_head(p, own, r, count++);
  Plan scored = p;
  scored.num_rows = count;
  Input x = quantised(scored, own, {own.normed, ld}, p.d_model);
  Range mine = share(p.vocab, width, rank, threads);
  for (long begin = mine.begin; begin < mine.end; begin += width) {
    long n = std::min(mine.end - begin, width);
    multiply(scored, own, p.head, x, {begin, begin + n}, own.up - begin, ldo);
    Part* part = p.parts + begin / width * p.max_rows;
    float* logits = own.up;
    for (long r = 0; r < p.num_rows; r++) {
      if (p.targets[r] < 0) continue;
      if (p.softcap > 0)
        for (long i = 0; i < n; i += V) store(logits + i, p.softcap * tanh_of(load(logits + i) / p.softcap));
      part->largest = largest(logits, n);
      part->chosen = begin + (std::find(logits, logits + n, part->largest) - logits);
      long target = p.targets[r] - begin;
      part->target = 0 <= target && target < n ? logits[target] : 0;
      exp_weights(logits, n, part->largest, LOG2_E, logits);
      part->sum = sum_floats(logits, n);
      part++, logits += ldo;
    }
  }
  barrier(p.sync, passed, threads);
  mine = share(count, 1, rank, threads);
  for (long r = 0, k = 0; r < p.num_rows; r++) {
    if (p.targets[r] < 0) continue;
    if (mine.begin <= k && k < mine.end) {
      Part all = p.parts[k];
      double sum = 0;
      for (long t = 1; t < num_tiles(p); t++) {
        const Part& part = p.parts[t * p.max_rows + k];
        if (part.largest > all.largest) all.largest = part.largest, all.chosen = part.chosen;
        all.target += part.target;  // 0 but in the tile that has it
      }
      for (long t = 0; t < num_tiles(p); t++) {
        const Part& part = p.parts[t * p.max_rows + k];
        sum += part.sum * std::exp(double(part.largest) - all.largest);
      }
      p.logprobs[r] = double(all.target) - all.largest - std::log(sum);
      p.chosen[r] = all.chosen;
    }
    k++;
  }
}
static void pass(Plan& p, const Own& own, long rank, long threads, long& passed) {
  bool predicting = p.purpose == PREDICT, scoring = p.purpose == SCORE;  // after the last barrier it may be the next pass's
  auto wait = [&] { barrier(p.sync, passed, threads); };
  Range qkv = share(p.layers[0].qkv.outputs, W, rank, threads), columns = share(p.d_model, W, rank, threads);
  Range ffn = share(p.ffn, W, rank, threads);
  long ld = padded(p.d_model), attended_ld = padded(p.num_heads * p.head_dim), ffn_ld = padded(p.ffn);
  embed(p, rank, threads);
  wait();
  const float* previous = nullptr;  // with post-norm, each sublayer normalises the sum that the previous one left
  for (long i = 0; i < p.num_layers; i++) {
    const Layer& l = p.layers[i];
    bool post = p.norm == POST;
    Input x = sublayer_input(p, own, post ? previous : l.attention_norm);
    multiply(p, own, l.qkv, x, qkv, p.projected, row_width(p));
    if (l.qkv_bias)
      for (long r = 0; r < p.num_rows; r++)
        for (long o = qkv.begin; o < qkv.end; o++) p.projected[r * row_width(p) + o] += l.qkv_bias[o];
    wait();
    attention(p, own, i, rank, threads, passed);
    wait();
    Input attended = quantised(p, own, {p.attended, attended_ld}, p.num_heads * p.head_dim);
    multiply(p, own, l.out, attended, columns, p.delta, ld);
    add_delta(p, x, columns);
    if (p.parallel) quantised(p, own, x, p.d_model);
    else {
      wait();
      x = sublayer_input(p, own, post ? l.attention_norm : l.ffn_norm);
    }
    if (l.gate.weight) multiply(p, own, l.gate, x, ffn, p.hidden, ffn_ld);
    multiply(p, own, l.up, x, ffn, own.up, ffn_ld);
    activate(p, l.gate.weight ? p.hidden : own.up, own.up, ffn);
    wait();
    Input hidden = quantised(p, own, {p.hidden, ffn_ld}, p.ffn);
    multiply(p, own, l.down, hidden, columns, p.delta, ld);
    add_delta(p, x, columns);
    previous = l.ffn_norm;
    wait();
  }
  if (predicting) {
    predict(p, own, rank, threads, passed);
    wait();
  } else if (scoring) {
    score(p, own, rank, threads, passed);
    wait();
  }
}

extern "C" {
long plan_bytes() { return sizeof(Plan); }
long layer_bytes() { return sizeof(Layer); }
// Bytes of the buffers and packed weights of a plan; sets its pointers into `memory`, which may be null, aligned to 64 bytes.
long lay_out(Plan* plan, char* memory) {
  Plan& p = *plan;
  long used = 0;
  auto take = [&](float*& pointer, long floats) {
    pointer = (float*)(memory + used);
    used += 4 * up_to(floats, W);
  };
  long heads = p.num_layers * p.batch * p.num_kv_heads;
  take(p.keys, heads * cached_keys(p));
  take(p.values, heads * cached_values(p));
  take(p.stream, p.max_rows * padded(p.d_model));
  take(p.projected, p.max_rows * row_width(p));
  take(p.attended, p.max_rows * padded(p.num_heads * p.head_dim));
  take(p.delta, p.max_rows * padded(p.d_model));
  take(p.hidden, p.max_rows * padded(p.ffn));
  take(p.logits, p.batch * padded(p.vocab));
  float* parts;
  take(parts, num_tiles(p) * p.max_rows * (long)sizeof(Part) / 4);
  p.parts = (Part*)parts;
  Own sizes;
  take(p.own, p.threads * own_floats(p, nullptr, sizes));
  for_each_matrix(p, [&](Matrix& m) {
    m.panels = memory + used;
    used += up_to(matrix_bytes(p, m), 4 * W);
  });
  return used + AHEAD * 4 * W;  // prefetching reads beyond the end
}
long padded_width(long width) { return padded(width); }
// Copies the first `length` cached keys and values of a sequence to another.
void copy_cache(const Plan* plan, long from, long to, long length) {
  const Plan& p = *plan;
  for (long layer = 0; layer < p.num_layers; layer++)
    for (long g = 0; g < p.num_kv_heads; g++) {
      long source = head_of(p, layer, from, g), target = head_of(p, layer, to, g);
      std::memcpy(p.keys + target * cached_keys(p), p.keys + source * cached_keys(p), 4 * up_to(length, W) * p.head_dim);
      std::memcpy(p.values + target * cached_values(p), p.values + source * cached_values(p), 4 * length * value_width(p));
    }
}

// Runs one pass on thread 0; on others, every pass they are invited to until none comes within `spin_limit` spins. done:
// number of this thread's last pass. Returns it, -1 once the team has ended.
long work(Plan* plan, long t, long done, long spin_limit) {
  Plan& p = *plan;
  Own own = own_of(p, t);
  while (true) {
    long rank = 0;
    if (t > 0) {
      long called = next_pass(p.sync, t, done, spin_limit);
      if (called <= 0) return called == 0 ? done : -1;
      done = called;
      rank = read(member_of(p.sync, t) + RANK);
    }
    long threads = p.team, passed = p.passed;
    if (p.purpose == PACK) {
      for_each_matrix(p, [&](const Matrix& m) { pack(p, m, rank, threads); });
      barrier(p.sync, passed, threads);
    } else
      pass(p, own, rank, threads, passed);
    // Nothing of a pass is read after its last barrier: thread 0 may already be preparing the next.
    if (t == 0) {
      p.passed = passed;
      return done;
    }
  }
}
}
