// AVX-512 F, BW, DQ, VL and VNNI.
#include "vnni-inl.h"

namespace ghost {

const Kernels* kernels_avx512vnni() {
  static constexpr Kernels table = kernel_table("avx512vnni", kTogether);
  return &table;
}

}  // namespace ghost
