// A snapshot of the memory bank, projected once for every layer that queries it.
#pragma once

#include "buffer.h"
#include "kernels.h"
#include "weights.h"

namespace ghost {

constexpr int kValueBytes = 8;  // of an entry's value that are looked at

struct MemorySnapshot {
  int entries = 0;
  int stride = 0;         // floats per row, padded d
  int scores_stride = 0;  // padded entries + 1
  Buffer<Vector> keys;    // per layer: [1 + entries][stride] unit rows, the null key first
  Buffer<Vector> values;  // per layer: [entries][stride]
  Vector scores;          // [kChunk][scores_stride], work space of the query

  // keys (entries, d); values (entries, 8), of which the first counts[j] in 1..8 bytes are used; entries >= 1.
  // False when there is no memory.
  bool build(const Weights& weights, const Kernels& kernels, const float* keys, const uint8_t* values,
             const int32_t* counts, int entries);
  size_t bytes() const;
};

}  // namespace ghost
