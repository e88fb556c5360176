// AVX2 (without FMA: a fused multiply-add would round differently).
#include "avx2_tables-inl.h"

namespace ghost {
namespace {

constexpr int kWide = 4;  // tokens of a tile: eight sums, two registers of codes and a few more, 16 registers in all

// One token: products, codes masked in place. Several: tiles of products, which decode a register of codes once for all
// of them. Many tokens and rows: tables (avx2_tables-inl.h says from how many on).
void linear(const TritMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  const int first = w->groups > 1 ? 0 : all_by_tables(*w, *x, y, y_stride, begin, end);
  for (int block = begin; block < end; ++block) {
    int t = first;
    for (; t + kWide <= x->tokens; t += kWide) tile<kWide>(*w, *x, y, y_stride, block, t);
    for (; t < x->tokens; ++t) tile<1>(*w, *x, y, y_stride, block, t);
  }
}

void linear_bytes(const ByteMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  for (int block = begin; block < end; ++block) {
    int t = 0;
    for (; t + kWide <= x->tokens; t += kWide) byte_tile<kWide>(*w, *x, y, y_stride, block, t);
    for (; t < x->tokens; ++t) byte_tile<1>(*w, *x, y, y_stride, block, t);
  }
}

}  // namespace

const Kernels* kernels_avx2() {
  static constexpr Kernels table = kernel_table("avx2");
  return &table;
}

}  // namespace ghost
