// Products with a factor that is packed once, and those whose sums go straight where they belong: the bits of the others, on every target.

#include <vector>

#include "cpu_kernels_testing.h"
#include "kernels/cpu/pool_workers.h"
#include "kernels/cpu/products.h"

namespace drivlm {

TEST(products_with_a_packed_factor_have_the_bits_of_the_others) {
  // More than one piece in depth (512 values in f32, 1,024 in bf16), more than one panel, and one of each.
  constexpr int64_t m = 37, n = 70, k = 1301;
  cpu::Random random(3);
  const std::vector<float> a = random.floats(m * k, 1), b = random.floats(n * k, 1);
  cpu::PoolWorkers alone(1);
  for (const cpu::Target& target : cpu::targets()) {
    if (!target.supported) continue;
    for (const DType precision : {DType::f32, DType::bf16}) {
      cpu::ProductSpace space;
      space.kind = cpu::product_kind(*target.kernels, precision);
      for (const bool by_rows : {true, false}) {
        for (const int64_t depth : {int64_t{1}, int64_t{64}, k}) {
          const cpu::Factor<float> left{a.data(), by_rows ? k : m, by_rows}, right{b.data(), by_rows ? k : n, by_rows};
          std::vector<float> memory(cpu::packed_floats(space.kind, n, depth) + 16);
          const cpu::PackedFactor packed =
              cpu::pack_factor(*target.kernels, space.kind, cpu::aligned(memory), right, n, depth);
          for (const int64_t columns : {int64_t{1}, int64_t{33}, n}) {
            for (const bool add : {false, true}) {
              std::vector<float> expected(m * n, 0.5f), found = expected;
              cpu::product<float>(*target.kernels, alone, space, expected.data(), n, left, right, m, columns, depth,
                                  add);
              cpu::product(*target.kernels, space.kind, found.data(), n, left, packed, m, columns, add);
              CHECK_EQ(found == expected, true);
            }
          }
        }
      }
    }
  }
}

TEST(products_stored_from_registers_have_the_bits_of_the_others) {
  constexpr int64_t n = 70, k = 93, stride = 77;
  cpu::Random random(4);
  const std::vector<float> b = random.floats(n * k, 1), bias = random.floats(n, 1), ones(n, 1.0f);
  cpu::PoolWorkers alone(1);
  for (const cpu::Target& target : cpu::targets()) {
    if (!target.supported) continue;
    std::vector<float> memory(cpu::packed_floats(cpu::WeightKind::f32, n, k) + 16);
    const cpu::PackedFactor packed =
        cpu::pack_factor(*target.kernels, cpu::WeightKind::f32, cpu::aligned(memory), {b.data(), k}, n, k);
    for (int64_t m = 1; m <= 29; ++m) {
      const std::vector<float> a = random.floats(m * k, 1);
      for (const Epilogue after : {Epilogue::store, Epilogue::add}) {
        for (const bool has_bias : {false, true}) {
          std::vector<float> expected(m * stride, 0.5f), found = expected;
          cpu::GemmJob job;
          job.x = a.data(), job.x_stride = k, job.x_f32 = job.out_f32 = true;
          job.w = packed.panels, job.kind = cpu::WeightKind::f32;
          job.m = m, job.n = n, job.k = k, job.after = after, job.out_stride = stride;
          job.bias = has_bias ? bias.data() : nullptr;
          job.out = found.data();
          cpu::gemm(*target.kernels, job, alone);
          job.out = expected.data();
          job.scale = ones.data();  // what has a scale is finished from memory
          cpu::gemm(*target.kernels, job, alone);
          CHECK_EQ(found == expected, true);
        }
      }
    }
  }
}

}  // namespace drivlm
