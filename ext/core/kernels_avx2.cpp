// AVX2 (without FMA: a fused multiply-add would round differently).
#include "avx2_tiles-inl.h"

namespace ghost {
namespace {

constexpr int kWide = 4;  // tokens of a tile: its sums, two registers of codes and a few more fit into 16 registers

void linear(const TritMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  for (int block = begin; block < end; ++block) {
    int t = 0;
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
