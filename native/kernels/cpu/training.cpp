// What only training has: the loss and the update.

#include <cmath>
#include <type_traits>

#include "kernels/cpu/cpu_gradients.h"
#include "kernels/cpu/kernel_table.h"

namespace drivlm {

CpuGradients::CpuGradients(int threads, const cpu::KernelTable& kernels, DType products)
    : threads_(threads), kernels_(kernels), pool_(threads), slots_(threads) {
  ThreadPool::instance().grow(threads);
  space_.kind = cpu::product_kind(kernels, products);
  for (cpu::ProductSpace& slot : slots_) slot.kind = space_.kind;
}

CpuGradients::~CpuGradients() = default;

void CpuGradients::cross_entropy(Tensor d_logits, double* losses, Tensor logits, const int32_t* labels,
                                 const double* weights) {
  const int64_t rows = logits.shape[0], vocab = logits.shape[1];
  expect_shape("cross_entropy", "d_logits", d_logits, {rows, vocab});
  for (int64_t row = 0; row < rows; ++row) {
    if (labels[row] < 0 || labels[row] >= vocab) throw Error(Code::internal, "cross_entropy: label out of range");
  }
  with_real("cross_entropy", logits.dtype, [&](auto type) {
    using T = decltype(type);
    parallel(rows, 1, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const T* from = logits.as<T>() + row * vocab;
        T* to = d_logits.as<T>() + row * vocab;
        T top = from[0];
        for (int64_t i = 1; i < vocab; ++i) top = std::max(top, from[i]);
        const double label = static_cast<double>(from[labels[row]]) - top;
        double total = 0;
        for (int64_t i = 0; i < vocab; ++i) {
          to[i] = std::exp(from[i] - top);
          total += to[i];
        }
        losses[row] = weights[row] * (std::log(total) - label);
        const T share = static_cast<T>(weights[row] / total);
        for (int64_t i = 0; i < vocab; ++i) to[i] *= share;
        to[labels[row]] -= static_cast<T>(weights[row]);
      }
    });
  });
}

double CpuGradients::sum_of_squares(Tensor x) {
  constexpr int64_t kPiece = 1 << 16;
  const int64_t count = x.count(), pieces = (count + kPiece - 1) / kPiece;
  double* sums = memory<double>(0, pieces);
  with_real("sum_of_squares", x.dtype, [&](auto type) {
    using T = decltype(type);
    parallel(pieces, 1, [&](int64_t first, int64_t last) {
      for (int64_t piece = first; piece < last; ++piece) {
        double lanes[8] = {};  // one sum alone waits for each of its additions
        const T* from = x.as<T>() + piece * kPiece;
        const int64_t size = std::min(kPiece, count - piece * kPiece);
        int64_t i = 0;
        for (; i + 8 <= size; i += 8) {
          for (int64_t lane = 0; lane < 8; ++lane) lanes[lane] += static_cast<double>(from[i + lane]) * from[i + lane];
        }
        for (; i < size; ++i) lanes[0] += static_cast<double>(from[i]) * from[i];
        for (int64_t lane = 1; lane < 8; ++lane) lanes[0] += lanes[lane];
        sums[piece] = lanes[0];
      }
    });
  });
  double total = 0;
  for (int64_t piece = 0; piece < pieces; ++piece) total += sums[piece];
  return total;
}

// m = b1 m + (1 - b1) g    v = b2 v + (1 - b2) g^2    p -= lr (m / c1 / (sqrt(v / c2) + eps) + wd p), p of before on the right
void CpuGradients::adamw(Tensor parameter, Tensor m, Tensor v, Tensor gradient, const AdamW& o) {
  const int64_t count = parameter.count();
  if (m.count() != count || v.count() != count || gradient.count() != count)
    throw Error(Code::internal, "adamw: counts differ");
  with_real("adamw", parameter.dtype, [&](auto type) {
    using T = decltype(type);
    const T beta1 = static_cast<T>(o.beta1), beta2 = static_cast<T>(o.beta2), rest1 = static_cast<T>(1 - o.beta1),
            rest2 = static_cast<T>(1 - o.beta2), eps = static_cast<T>(o.eps), clip = static_cast<T>(o.gradient_scale);
    const T rate = static_cast<T>(o.learning_rate / (1 - std::pow(o.beta1, static_cast<double>(o.step))));
    const T root = static_cast<T>(1 / std::sqrt(1 - std::pow(o.beta2, static_cast<double>(o.step))));
    const T keep = static_cast<T>(1 - o.learning_rate * o.weight_decay);
    T *p = parameter.as<T>(), *first_moment = m.as<T>(), *second_moment = v.as<T>();
    const T* g = gradient.as<T>();
    if constexpr (std::is_same_v<T, float>) {
      const cpu::AdamStep step{beta1, rest1, beta2, rest2, clip, rate, root, eps, keep};
      return parallel(count, 1 << 14, [&](int64_t first, int64_t last) {
        kernels_.adamw(p + first, first_moment + first, second_moment + first, g + first, last - first, step);
      });
    }
    parallel(count, 1 << 14, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const T d = g[i] * clip;
        first_moment[i] = beta1 * first_moment[i] + rest1 * d;
        second_moment[i] = beta2 * second_moment[i] + rest2 * d * d;
        p[i] = p[i] * keep - rate * first_moment[i] / (std::sqrt(second_moment[i]) * root + eps);
      }
    });
  });
}

}  // namespace drivlm
