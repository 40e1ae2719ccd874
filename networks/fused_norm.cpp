// Batch norm, ReLU and max pooling of a training step as one kernel; fused_norm.py calls it.
// Maps are [N, H, W, C] in memory. Sums are kept per image and added in order, so that the result
// does not depend on the number of threads.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

struct bf16 { uint16_t bits; };

static inline float get(float value) { return value; }
static inline float get(bf16 value) {
  uint32_t bits = uint32_t(value.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
static inline void put(float& out, float value) { out = value; }
static inline void put(bf16& out, float value) {  // to the nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  out.bits = uint16_t(value == value ? rounded : 0x7fc0);
}

constexpr uint8_t DEAD = 255;  // the maximum is not positive: no gradient

template <typename T>
void forward(const T* x, T* out, T* chosen, uint8_t* place, float* mean, float* var,
             const float* weight, const float* bias, float eps,
             int64_t N, int64_t H, int64_t W, int64_t C, int64_t P) {
  const int64_t h = H / P, w = W / P, rows = H * W;
  std::vector<float> shift(C), sums(N * C), squares(N * C), scale(C), offset(C);
  for (int64_t c = 0; c < C; ++c) shift[c] = get(x[c]);  // near the mean: squares do not cancel
  #pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < N; ++n) {
    float* __restrict s = &sums[n * C];
    float* __restrict q = &squares[n * C];
    const float* __restrict from = shift.data();
    for (int64_t r = 0; r < rows; ++r) {
      const T* __restrict row = x + (n * rows + r) * C;
      #pragma omp simd
      for (int64_t c = 0; c < C; ++c) {
        float d = get(row[c]) - from[c];
        s[c] += d;
        q[c] += d * d;
      }
    }
  }
  const double count = double(N) * rows;
  for (int64_t c = 0; c < C; ++c) {
    double s = 0, q = 0;
    for (int64_t n = 0; n < N; ++n) { s += sums[n * C + c]; q += squares[n * C + c]; }
    double m = s / count, v = q / count - m * m;
    if (v < 0) v = 0;
    mean[c] = float(m + shift[c]);
    var[c] = float(v);
    scale[c] = float(weight[c] / std::sqrt(v + eps));
    offset[c] = bias[c] - mean[c] * scale[c];
  }
  #pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < N; ++n) {
    const float* __restrict a = scale.data();
    const float* __restrict b = offset.data();
    std::vector<float> highest(C), value(C);
    std::vector<int32_t> where(C);
    float* __restrict top = highest.data();
    float* __restrict of = value.data();
    int32_t* __restrict at = where.data();
    for (int64_t i = 0; i < h; ++i) for (int64_t j = 0; j < w; ++j) {
      const int64_t o = ((n * h + i) * w + j) * C;
      const T* __restrict first = x + ((n * H + i * P) * W + j * P) * C;
      #pragma omp simd
      for (int64_t c = 0; c < C; ++c) {
        of[c] = get(first[c]);
        top[c] = of[c] * a[c] + b[c];
        at[c] = 0;
      }
      for (int64_t k = 1; k < P * P; ++k) {
        const T* __restrict row = first + (k / P * W + k % P) * C;
        #pragma omp simd
        for (int64_t c = 0; c < C; ++c) {
          float v = get(row[c]), y = v * a[c] + b[c];
          bool more = y > top[c];
          top[c] = more ? y : top[c];
          of[c] = more ? v : of[c];
          at[c] = more ? int32_t(k) : at[c];
        }
      }
      T* __restrict to = out + o;
      uint8_t* __restrict mark = place + o;
      #pragma omp simd
      for (int64_t c = 0; c < C; ++c) {
        put(to[c], top[c] <= 0 ? 0.0f : top[c]);
        mark[c] = uint8_t(top[c] <= 0 ? DEAD : at[c]);
      }
      if (P > 1) {
        T* __restrict keep = chosen + o;
        #pragma omp simd
        for (int64_t c = 0; c < C; ++c) put(keep[c], of[c]);
      }
    }
  }
}

template <typename T>
void backward(const T* grad, const T* x, const T* chosen, const uint8_t* place, const float* mean,
              const float* var, const float* weight, float eps, T* dx, float* dweight,
              float* dbias, int64_t N, int64_t H, int64_t W, int64_t C, int64_t P) {
  const int64_t h = H / P, w = W / P;
  std::vector<float> sums(N * C), products(N * C), scale(C), slope(C), level(C);
  const T* at_maximum = P > 1 ? chosen : x;
  #pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < N; ++n) {
    float* __restrict s = &sums[n * C];
    float* __restrict q = &products[n * C];
    const float* __restrict m = mean;
    for (int64_t r = 0; r < h * w; ++r) {
      const int64_t o = (n * h * w + r) * C;
      const T* __restrict g = grad + o;
      const T* __restrict v = at_maximum + o;
      const uint8_t* __restrict mark = place + o;
      #pragma omp simd
      for (int64_t c = 0; c < C; ++c) {
        float one = mark[c] == DEAD ? 0.0f : get(g[c]);
        s[c] += one;
        q[c] += one * (get(v[c]) - m[c]);
      }
    }
  }
  const double count = double(N) * H * W;
  for (int64_t c = 0; c < C; ++c) {
    double s = 0, q = 0, inverse = 1 / std::sqrt(double(var[c]) + eps);
    for (int64_t n = 0; n < N; ++n) { s += sums[n * C + c]; q += products[n * C + c]; }
    dbias[c] = float(s);
    dweight[c] = float(q * inverse);
    double a = weight[c] * inverse, b = a * inverse * inverse * q / count;
    scale[c] = float(a);
    slope[c] = float(b);
    level[c] = float(b * mean[c] - a * s / count);
  }
  #pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < N; ++n) {
    const float* __restrict a = scale.data();
    const float* __restrict b = slope.data();
    const float* __restrict d = level.data();
    for (int64_t i = 0; i < H; ++i) for (int64_t j = 0; j < W; ++j) {
      const int64_t p = ((n * H + i) * W + j) * C;
      const T* __restrict v = x + p;
      T* __restrict to = dx + p;
      if (i / P < h && j / P < w) {
        const int64_t o = ((n * h + i / P) * w + j / P) * C;
        const T* __restrict g = grad + o;
        const uint8_t* __restrict mark = place + o;
        const uint8_t k = uint8_t(i % P * P + j % P);
        #pragma omp simd
        for (int64_t c = 0; c < C; ++c)
          put(to[c], (mark[c] == k ? get(g[c]) * a[c] : 0.0f) - get(v[c]) * b[c] + d[c]);
      } else {  // a rest that no window covers
        #pragma omp simd
        for (int64_t c = 0; c < C; ++c) put(to[c], d[c] - get(v[c]) * b[c]);
      }
    }
  }
}

#define EXPORT(NAME, T)                                                                            \
  extern "C" void forward_##NAME(const T* x, T* out, T* chosen, uint8_t* place, float* mean,       \
      float* var, const float* weight, const float* bias, float eps, int64_t N, int64_t H,         \
      int64_t W, int64_t C, int64_t P) {                                                           \
    forward(x, out, chosen, place, mean, var, weight, bias, eps, N, H, W, C, P);                   \
  }                                                                                                \
  extern "C" void backward_##NAME(const T* grad, const T* x, const T* chosen,                      \
      const uint8_t* place, const float* mean, const float* var, const float* weight, float eps,   \
      T* dx, float* dweight, float* dbias, int64_t N, int64_t H, int64_t W, int64_t C,             \
      int64_t P) {                                                                                 \
    backward(grad, x, chosen, place, mean, var, weight, eps, dx, dweight, dbias, N, H, W, C, P);   \
  }
EXPORT(float, float)
EXPORT(bf16, bf16)
