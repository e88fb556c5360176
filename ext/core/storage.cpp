#include "storage.h"

#include <algorithm>
#include <cstring>
#include <string_view>

namespace ghost {
namespace {

struct Ending {
  const char* ending;
  const char* kind;
};

constexpr Ending kEndings[] = {{".trits", "trits (1.6 bit)"}, {".index", "codebook indices"},
                               {".codebook", "codebooks"},    {".scale", "row scales"},
                               {"weight_scale", "row scales"}, {"A_log_scale", "row scales"}};

bool ends_with(std::string_view name, std::string_view ending) {
  return name.size() >= ending.size() && name.substr(name.size() - ending.size()) == ending;
}

const char* kind_of(const TensorInfo& tensor) {
  for (const Ending& each : kEndings) {
    if (ends_with(tensor.name, each.ending)) return each.kind;
  }
  return tensor.dtype == Dtype::I8 ? "int8 matrices" : "vectors (float16)";
}

}  // namespace

std::vector<StorageKind> storage_of(const Container& container, uint64_t file_bytes) {
  std::vector<StorageKind> kinds;
  uint64_t header = file_bytes;
  for (const TensorInfo& tensor : container.tensors) {
    const char* name = kind_of(tensor);
    header -= tensor.nbytes;
    auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const StorageKind& k) { return std::strcmp(k.name, name) == 0; });
    if (kind == kinds.end()) kind = kinds.insert(kinds.end(), {name, 0});
    kind->bytes += tensor.nbytes;
  }
  std::sort(kinds.begin(), kinds.end(), [](const StorageKind& a, const StorageKind& b) { return a.bytes > b.bytes; });
  kinds.push_back({"header", header});
  kinds.push_back({"total", file_bytes});
  return kinds;
}

int64_t parameters_of(const TensorInfo& tensor) {
  for (const char* derived : {".trits", ".index", "weight_scale", "A_log_scale"}) {
    if (ends_with(tensor.name, derived)) return 0;
  }
  return static_cast<int64_t>(tensor.nbytes / dtype_size(tensor.dtype));
}

}  // namespace ghost
