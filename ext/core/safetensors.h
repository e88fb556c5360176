// The strict reader of Ghost files (docs/file-format.md): the twin of ghost_ref/container.py, safe on hostile bytes.
// Only the header and one piece of a file are in memory at a time; a container says where in the source its tensors are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "source.h"
#include "status.h"

namespace ghost {

enum class Dtype { U64, I64, F64, F32, U32, I32, F16, U16, I16, I8, U8 };

const char* dtype_name(Dtype dtype);  // "F16"
size_t dtype_size(Dtype dtype);       // bytes per element

struct TensorInfo {
  std::string name;
  Dtype dtype = Dtype::U8;
  std::vector<uint64_t> shape;  // at most 8 dimensions; empty for a scalar
  uint64_t offset = 0;          // in the source; the bytes are little-endian, row-major, of any alignment
  uint64_t nbytes = 0;
};

struct Container {
  std::vector<TensorInfo> tensors;                            // sorted by name
  std::vector<std::pair<std::string, std::string>> metadata;  // as in the file, keys all different

  const TensorInfo* find(std::string_view name) const;            // nullptr if there is none
  const std::string* find_metadata(std::string_view key) const;  // nullptr if there is none
};

// The structure alone: header, element types, shapes, ranges that cover the file exactly. `name` is the file's, for
// the error sentence.
Result<Container> parse_safetensors(Source* source, const std::string& name);

// All rules of docs/file-format.md that do not depend on the config: the structure, the format ("ghost-packed"), its
// version, the checksum, no NaN or infinity.
Result<Container> read_container(Source* source, std::string_view format, const std::string& name);

}  // namespace ghost
