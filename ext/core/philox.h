// Philox 4x32-10 counter-based random generator (Salmon et al., SC'11): the twin of ghost_ref/philox.py.
#pragma once

#include <cstdint>

namespace ghost {

struct Philox4x32 {
  uint32_t word[4];
};

// Internal linkage: every instruction-set unit keeps its own copy, none leaks into another's.
[[maybe_unused]] static Philox4x32 philox4x32(Philox4x32 x, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * x.word[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * x.word[2];
    x = {{static_cast<uint32_t>(p1 >> 32) ^ x.word[1] ^ key0, static_cast<uint32_t>(p1),
          static_cast<uint32_t>(p0 >> 32) ^ x.word[3] ^ key1, static_cast<uint32_t>(p0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return x;
}

}  // namespace ghost
