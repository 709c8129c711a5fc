// Compares the library's operators with loops in double: a program for CPUs without PyTorch, such as an emulator's.
//
// Prints one line per operator and shape with the largest error, relative to the largest absolute value of the result;
// exit code 1 where one exceeds 2e-5 or is not finite. Shapes cross the edges of tiles, vectors and blocks.
#include "operators.cpp"

#include <cstdio>
#include <random>
#include <vector>

using Floats = std::vector<float>;
static std::mt19937 generator(1);
static bool failed = false;

static Floats normal(long n, float scale = 1.f) {
  std::normal_distribution<float> draw(0.f, scale);
  Floats x(n);
  for (auto& v : x) v = draw(generator);
  return x;
}

struct Exact {  // a matrix in double
  long rows, columns;
  std::vector<double> x;
  Exact(long r, long c) : rows(r), columns(c), x(r * c) {}
  Exact(long r, long c, const float* p) : rows(r), columns(c), x(p, p + r * c) {}
  double& at(long i, long j) { return x[i * columns + j]; }
  double at(long i, long j) const { return x[i * columns + j]; }
  Exact t() const {
    Exact y(columns, rows);
    for (long i = 0; i < rows; i++)
      for (long j = 0; j < columns; j++) y.at(j, i) = at(i, j);
    return y;
  }
};
static Exact operator*(const Exact& a, const Exact& b) {
  Exact c(a.rows, b.columns);
  for (long i = 0; i < a.rows; i++)
    for (long k = 0; k < a.columns; k++)
      for (long j = 0; j < b.columns; j++) c.at(i, j) += a.at(i, k) * b.at(k, j);
  return c;
}

static void compare(const char* what, const Floats& got, const std::vector<double>& want) {
  double worst = 0, largest = 1e-30;
  bool finite = got.size() == want.size();
  for (size_t i = 0; i < want.size() && finite; i++) {
    finite = std::isfinite(got[i]);
    worst = std::max(worst, std::abs(got[i] - want[i]));
    largest = std::max(largest, std::abs(want[i]));
  }
  bool right = finite && worst / largest < 2e-5;
  failed |= !right;
  std::printf("%s %-24s %.2g\n", right ? "ok   " : "WRONG", what, finite ? worst / largest : NAN);
}

static void linear_case(long M, long N, long K) {
  Floats x = normal(M * K), w = normal(N * K), dy = normal(M * N), y(M * N), dx(M * K), dw(N * K);
  linear_forward(2, M, N, K, x.data(), w.data(), y.data());
  linear_backward(2, M, N, K, dy.data(), x.data(), w.data(), dx.data(), dw.data());
  Exact X(M, K, x.data()), W(N, K, w.data()), DY(M, N, dy.data());
  compare("linear", y, (X * W.t()).x);
  compare("linear, dx", dx, (DY * W).x);
  compare("linear, dweight", dw, (DY.t() * X).x);
}

static void feed_forward_case(long M, long D, long F) {
  Floats x = normal(M * D), up = normal(2 * F * D, 0.2f), down = normal(D * F, 0.2f), dy = normal(M * D);
  Floats both(M * 2 * F), y(M * D), dx(M * D), dup(2 * F * D), ddown(D * F);
  feed_forward_forward(2, M, D, F, x.data(), up.data(), down.data(), both.data(), y.data());
  feed_forward_backward(2, M, D, F, dy.data(), x.data(), both.data(), up.data(), down.data(), dx.data(), dup.data(), ddown.data());
  Exact X(M, D, x.data()), U(2 * F, D, up.data()), W(D, F, down.data()), DY(M, D, dy.data());
  Exact B = X * U.t(), H(M, F), DH = DY * W, DB(M, 2 * F);
  for (long i = 0; i < M; i++)
    for (long j = 0; j < F; j++) {
      double g = B.at(i, j), u = B.at(i, F + j), s = 1 / (1 + std::exp(-g));
      H.at(i, j) = g * s * u;
      DB.at(i, j) = DH.at(i, j) * u * (s + g * s * (1 - s));
      DB.at(i, F + j) = DH.at(i, j) * g * s;
    }
  compare("feed-forward", y, (H * W.t()).x);
  compare("feed-forward, dx", dx, (DB * U).x);
  compare("feed-forward, dup", dup, (DB.t() * X).x);
  compare("feed-forward, ddown", ddown, (DY.t() * H).x);
}

static void cross_entropy_case(long M, long D, long W) {
  Floats h = normal(M * D), w = normal(W * D, 0.3f), losses(M), dh(M * D), dw(W * D);
  std::vector<long long> targets(M);
  for (long i = 0; i < M; i++) targets[i] = i % 7 == 0 ? -100 : (i * 37) % W;
  cross_entropy(2, M, D, W, h.data(), w.data(), targets.data(), -100, 1e-2f, losses.data(), dh.data(), dw.data());
  Exact H(M, D, h.data()), E(W, D, w.data()), L = H * E.t(), DL(M, W);
  std::vector<double> want(M);
  for (long i = 0; i < M; i++) {
    if (targets[i] < 0) continue;
    double sum = 0;
    for (long j = 0; j < W; j++) sum += std::exp(L.at(i, j));
    double lse = std::log(sum);
    want[i] = lse - L.at(i, targets[i]) + 1e-2 * lse * lse;
    for (long j = 0; j < W; j++) DL.at(i, j) = std::exp(L.at(i, j) - lse) * (1 + 2e-2 * lse) - (j == targets[i]);
  }
  compare("cross-entropy", losses, want);
  compare("cross-entropy, dhidden", dh, (DL * E).x);
  compare("cross-entropy, dweight", dw, (DL.t() * H).x);
}

// One head's rows of qkv, rotated by cs and sn unless they are empty.
static Exact head(const float* x, long T, long W, long D, const Floats& cs, const Floats& sn) {
  Exact y(T, D);
  for (long t = 0; t < T; t++)
    for (long j = 0; j < D / 2; j++) {
      double a = x[t * W + j], b = x[t * W + j + D / 2];
      double c = cs.empty() ? 1 : cs[t * (D / 2) + j], s = sn.empty() ? 0 : sn[t * (D / 2) + j];
      y.at(t, j) = a * c - b * s;
      y.at(t, j + D / 2) = b * c + a * s;
    }
  return y;
}
static void add_back(Exact& gradient, const Exact& d, long offset, const Floats& cs, const Floats& sn) {
  long D = d.columns;
  for (long t = 0; t < d.rows; t++)
    for (long j = 0; j < D / 2; j++) {
      double a = d.at(t, j), b = d.at(t, j + D / 2);
      double c = cs.empty() ? 1 : cs[t * (D / 2) + j], s = sn.empty() ? 0 : -sn[t * (D / 2) + j];
      gradient.at(t, offset + j) += a * c - b * s;
      gradient.at(t, offset + j + D / 2) += b * c + a * s;
    }
}
static void attention_case(long B, long T, long H, long G, long D, bool turned) {
  long W = (H + 2 * G) * D;
  float scale = 1.f / std::sqrt((float)D);
  Floats qkv = normal(B * T * W), dout = normal(B * T * H * D), out(B * T * H * D), lse(B * H * T), dqkv(B * T * W), cs, sn;
  for (long i = 0; turned && i < T * D / 2; i++) cs.push_back(std::cos(0.1f * i)), sn.push_back(std::sin(0.1f * i));
  const float *c = turned ? cs.data() : nullptr, *s = turned ? sn.data() : nullptr;
  attention_forward(2, B, T, H, G, D, scale, qkv.data(), c, s, out.data(), lse.data());
  attention_backward(2, B, T, H, G, D, scale, qkv.data(), c, s, out.data(), lse.data(), dout.data(), dqkv.data());
  std::vector<double> want_out(out.size()), want_lse(lse.size()), want_gradient(dqkv.size());
  for (long b = 0; b < B; b++) {
    Exact gradient(T, W);
    for (long h = 0; h < H; h++) {
      const float* base = qkv.data() + b * T * W;
      long g = h / (H / G);
      Exact q = head(base + h * D, T, W, D, cs, sn), k = head(base + (H + g) * D, T, W, D, cs, sn), v = head(base + (H + G + g) * D, T, W, D, {}, {});
      Exact p = q * k.t(), o(T, D), up(T, D);
      for (long t = 0; t < T; t++) {
        double sum = 0;
        for (long j = 0; j <= t; j++) sum += std::exp(scale * p.at(t, j));
        want_lse[(b * H + h) * T + t] = std::log2(sum);
        for (long j = 0; j < T; j++) p.at(t, j) = j <= t ? std::exp(scale * p.at(t, j)) / sum : 0;
      }
      o = p * v;
      for (long t = 0; t < T; t++)
        for (long d = 0; d < D; d++) {
          want_out[((b * T + t) * H + h) * D + d] = o.at(t, d);
          up.at(t, d) = dout[((b * T + t) * H + h) * D + d];
        }
      Exact dp = up * v.t();
      for (long t = 0; t < T; t++) {
        double delta = 0;
        for (long d = 0; d < D; d++) delta += o.at(t, d) * up.at(t, d);
        for (long j = 0; j < T; j++) dp.at(t, j) = scale * p.at(t, j) * (dp.at(t, j) - delta);
      }
      add_back(gradient, dp * k, h * D, cs, sn);
      add_back(gradient, dp.t() * q, (H + g) * D, cs, sn);
      add_back(gradient, p.t() * up, (H + G + g) * D, {}, {});
    }
    std::copy(gradient.x.begin(), gradient.x.end(), want_gradient.begin() + b * T * W);
  }
  compare("attention", out, want_out);
  compare("attention, lse", lse, want_lse);
  compare("attention, dqkv", dqkv, want_gradient);
}

int main() {
  for (long M : {1, 5, 33})
    for (long N : {1, 17, 70})
      for (long K : {1, 40, 300}) linear_case(M, N, K);
  for (long M : {1, 70, 530}) feed_forward_case(M, 24, 37);
  for (long M : {3, 530}) cross_entropy_case(M, 20, 131);
  for (long T : {1, 13, 47})
    for (long D : {6, 32, 40}) attention_case(2, T, 4, 2, D, T != 13);
  return failed;
}
