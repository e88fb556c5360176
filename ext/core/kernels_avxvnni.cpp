// AVX2 and AVX-VNNI, that is vpdpbusd without AVX-512.
#include "vnni-inl.h"

namespace ghost {

const Kernels* kernels_avxvnni() {
  static constexpr Kernels table = kernel_table("avxvnni");
  return &table;
}

}  // namespace ghost
