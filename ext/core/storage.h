// What a packed file spends its bytes on.
#pragma once

#include <cstdint>
#include <vector>

#include "safetensors.h"

namespace ghost {

struct StorageKind {
  const char* name;  // "trits (1.6 bit)", ..., "header", "total"
  uint64_t bytes;
};

// The kinds of tensors, most bytes first, then the header and the total; twin of estimate_storage in ghost_ref/packed.py.
std::vector<StorageKind> storage_of(const Container& container, uint64_t file_bytes);

// Trained parameters that a tensor of the file stands for; the packed trits, whose tensor does not say, are not counted.
int64_t parameters_of(const TensorInfo& tensor);

}  // namespace ghost
