// AVX2 and AVX-VNNI, that is vpdpbusd without AVX-512: the AVX2 level with matmuls of its own.
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wunneeded-internal-declaration"  // the kernels that are not used here
#endif
#include "vnni-inl.h"

namespace ghost {

const Kernels* kernels_avxvnni() {
  static const Kernels table = [] {
    Kernels kernels = *kernels_avx2();
    kernels.name = "avxvnni";
    kernels.together = kTogether;
    kernels.linear = linear;
    kernels.linear_bytes = linear_bytes;
    return kernels;
  }();
  return &table;
}

}  // namespace ghost
