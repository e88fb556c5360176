// Golden vectors (docs/conformance-vectors.md): the manifest, the cases and their tensors. Whatever is wrong with a
// file is a BadFile, one sentence.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "json.h"

namespace judge {

struct BadFile : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Tensor {
  std::string dtype;  // F64, F32, I64, BOOL, ... as safetensors has it
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr;  // little-endian, of any alignment
  size_t nbytes = 0;

  int64_t size() const;
  // An element of type F64, F32, I64, I32, I16, I8, U8 or BOOL as a number (I64 counts are small: exact).
  double number(int64_t i) const;
};

// A safetensors file. Unlike the model loader (ext/core/safetensors.h) it takes every element type, NaN and any header
// metadata; the structure is checked alike.
class Tensors {
 public:
  Tensors() = default;
  Tensors(std::string path, std::string bytes);
  Tensors(const Tensors&) = delete;  // the tensors point into the bytes
  Tensors& operator=(const Tensors&) = delete;

  const Tensor* find(const std::string& name) const;
  const std::string& path() const { return path_; }

 private:
  void add(const std::string& name, const ghost::Json& entry, size_t begin);

  std::string path_, bytes_;
  std::map<std::string, Tensor> tensors_;
};

// A float32 array of a case; what needs more axes merged or split reads `values`.
struct Array {
  std::vector<float> values;
  std::vector<int> shape;

  const float* row(int i) const { return values.data() + static_cast<size_t>(i) * static_cast<size_t>(shape.back()); }
};

class Case {
 public:
  Case(const ghost::Json& description, const Tensors& tensors, size_t number);

  const std::string& name() const { return name_; }
  bool forward() const { return forward_; }
  bool has_bits() const { return bits_; }
  const std::vector<std::string>& outputs() const { return outputs_; }

  const Tensor* find(const std::string& path) const;  // "argument/x", "bits/y"; nullptr if there is none
  const Tensor& at(const std::string& path) const;
  // Argument `name` as float32 of this shape, -1 for any size (but zero only of the first axis); leading axes beyond it
  // are merged into the first.
  Array array(const std::string& name, const std::vector<int64_t>& shape) const;
  // Of the statics: within an int32; any number; 64 bits (a string of digits beyond 2^53), 0 without; a list.
  int64_t integer(const std::string& name, int64_t otherwise) const;
  double number(const std::string& name, double otherwise) const;
  uint64_t word(const std::string& name) const;
  std::vector<int64_t> integers(const std::string& name) const;
  [[noreturn]] void refuse(const std::string& why) const;

 private:
  const ghost::Json* statics_;
  const Tensors* tensors_;
  std::string prefix_, name_;
  bool forward_ = false, bits_ = false;
  std::vector<std::string> outputs_;
};

struct Component {
  std::string name;
  bool canonical = false;
  ghost::Json description;
  Tensors tensors;
  std::vector<Case> cases;

  Component(const std::string& directory, const std::string& component);
  // From the content of the two files; `where` names them in messages.
  Component(const std::string& where, const std::string& json, std::string safetensors);
  Component(const Component&) = delete;  // the cases point into the description and the tensors
  Component& operator=(const Component&) = delete;
};

// The names of the components, in order, after every file of the manifest has been found unchanged.
std::vector<std::string> read_manifest(const std::string& directory);

}  // namespace judge
