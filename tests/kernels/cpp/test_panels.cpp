// Compares the decoder's products with loops in double: a program for CPUs without PyTorch, such as an emulator's.
//
// Prints one line per shape with the largest error relative to the largest sum of absolute products, for floats and for 8 bits: these
// against the same quantised numbers in double, so that only rounding differs, and against the exact product. Exit code 1 where an error exceeds its limit, or where a row's result depends on other rows or on the range.
#include "panels_int8.h"

#include <cstdio>
#include <random>
#include <vector>

using Floats = std::vector<float>;
static std::mt19937 generator(1);
static bool failed = false;

static Floats normal(long n) {
  std::normal_distribution<float> draw;
  Floats x(n);
  for (auto& v : x) v = draw(generator);
  return x;
}
// The largest difference, relative to the largest value of `unit`.
static double distance(const Floats& a, const std::vector<double>& b, const std::vector<double>& unit) {
  double most = 1e-30, error = 0;
  for (size_t i = 0; i < a.size(); i++) most = std::max(most, std::fabs(unit[i])), error = std::max(error, std::fabs(a[i] - b[i]));
  for (float x : a) error = std::isfinite(x) ? error : INFINITY;
  return error / most;
}
// A row or weight as its blocks of 32 represent it; a scale of weights is a bfloat16 rounded up.
static std::vector<double> blocks(const Floats& x, long rows, long inputs, bool weights) {
  std::vector<double> y(x.size());
  for (long r = 0; r < rows; r++)
    for (long b = 0; b < inputs; b += 32) {
      float most = 0;
      long end = std::min(inputs, b + 32);
      for (long k = b; k < end; k++) most = std::max(most, std::fabs(x[r * inputs + k]));
      float scale = most / 127;
      if (weights) {
        uint32_t bits;
        std::memcpy(&bits, &scale, 4);
        bits = (bits + 0xffff) / 0x10000 * 0x10000;
        std::memcpy(&scale, &bits, 4);
      }
      for (long k = b; k < end; k++) {
        double q = scale > 0 ? (weights ? std::nearbyint(x[r * inputs + k] / scale) : std::floor(std::fabs(x[r * inputs + k] * (127 / most)) + .5)) : 0;
        y[r * inputs + k] = scale * (weights ? q : std::copysign(q, x[r * inputs + k]));
      }
    }
  return y;
}
static std::vector<double> product(const std::vector<double>& x, const std::vector<double>& w, long rows, long inputs, long outputs) {
  std::vector<double> y(rows * outputs);
  for (long r = 0; r < rows; r++)
    for (long o = 0; o < outputs; o++)
      for (long k = 0; k < inputs; k++) y[r * outputs + o] += x[r * inputs + k] * w[o * inputs + k];
  return y;
}

struct Case {
  long rows, inputs, outputs;
  bool int8;
  Matrix m;
  std::vector<char> memory;
  Floats x;
  std::vector<RowPair> quantised;
  Case(long rows, long inputs, long outputs, bool int8, const Floats& w, const Floats& x) : rows(rows), inputs(inputs), outputs(outputs), int8(int8), x(x) {
    m = {w.data(), outputs, inputs, nullptr};
    memory.assign((int8 ? int8_bytes(m) : float_bytes(m)) + 64, 0x7f);  // NaN
    m.panels = (char*)(((size_t)memory.data() + 63) / 64 * 64);
    auto pack = int8 ? pack_int8 : pack_floats;
    long middle = outputs / 32 * 16;
    pack(m, 0, middle);
    pack(m, middle, outputs);
    for (long r = 0; r < rows; r++) {
      quantised.resize((r + 1) * pairs_of(inputs));
      quantise(x.data() + r * inputs, inputs, &quantised[r * pairs_of(inputs)]);
    }
  }
  // Rows [first, last) and columns from `begin` on.
  Floats run(long first, long last, long begin) {
    long ldo = up_to(outputs, W), n = last - first;
    Floats out(n * ldo, NAN), y;
    if (int8) times_int8(m, &quantised[first * pairs_of(inputs)], pairs_of(inputs), n, begin, outputs, out.data(), ldo);
    else times_floats(m, &x[first * inputs], inputs, n, begin, outputs, out.data(), ldo);
    for (long r = 0; r < n; r++)
      for (long o = begin; o < outputs; o++) y.push_back(out[r * ldo + o]);
    return y;
  }
};

int main() {
  for (long rows : {1, 2, 3, 4, 5, 7, 16, 29})
    for (long inputs : {1, 31, 64, 100, 576, 1040})
      for (long outputs : {1, 16, 61, 144, 200}) {
        Floats w = normal(outputs * inputs), x = normal(rows * inputs);
        for (long k = 0; k < inputs; k += 7) w[k] *= 30, x[k] *= 30;  // outliers
        std::fill(w.end() - std::min(inputs, 32L), w.end(), 0.f);
        std::vector<double> x2(x.begin(), x.end()), w2(w.begin(), w.end()), exact = product(x2, w2, rows, inputs, outputs);
        for (auto* v : {&x2, &w2})
          for (double& each : *v) each = std::fabs(each);
        std::vector<double> sizes = product(x2, w2, rows, inputs, outputs);  // without cancellation
        for (bool int8 : {false, true}) {
          Case c(rows, inputs, outputs, int8, w, x);
          Floats y = c.run(0, rows, 0);
          auto rounded = int8 ? product(blocks(x, rows, inputs, false), blocks(w, outputs, inputs, true), rows, inputs, outputs) : exact;
          double error = distance(y, rounded, sizes), whole = distance(y, exact, sizes);
          bool same = true;
          for (long r = 0; r < rows; r++) {
            Floats alone = c.run(r, r + 1, 0);
            for (long o = 0; o < outputs; o++) same &= alone[o] == y[r * outputs + o];
          }
          long begin = outputs / 32 * 16;
          Floats part = c.run(0, rows, begin);
          for (long r = 0; r < rows; r++)
            for (long o = begin; o < outputs; o++) same &= part[r * (outputs - begin) + o - begin] == y[r * outputs + o];
          bool ok = error <= 2e-6 && same && whole <= 0.02;
          failed |= !ok;
          std::printf("%s %s %ld x %ld x %ld: %.1e, %.1e from exact%s\n", ok ? "ok" : "WRONG", int8 ? "int8" : "float", rows, inputs, outputs, error, whole, same ? "" : ", depends on other rows");
        }
      }
  return failed;
}
