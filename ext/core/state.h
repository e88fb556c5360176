// The recurrent state of one stream (docs/semantics.md section 6), in the layout of the kernels.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "buffer.h"
#include "config.h"

namespace ghost {

// One array of the state: its name and shape in the reference (without the batch axis, which is 1), and where it lies.
struct StateArray {
  enum Kind { kPosition, kCount, kRows, kScan };
  std::string name;
  Kind kind;               // kPosition and kCount are one int32, the others float32
  std::vector<int> shape;  // kRows: (columns) or (rows, columns); kScan: (channels, d_state)
  int layer;               // -1: not of a layer
  size_t offset;           // of the first float
  int stride;              // kRows: floats from row to row
};

// Where everything is in a state of one model.
class StateLayout {
 public:
  explicit StateLayout(const Config& config);

  struct Layer {
    size_t conv, ssm, keys, values, bias;  // offsets in floats
  };
  std::vector<StateArray> arrays;
  std::vector<Layer> layers;
  size_t tokenizer = 0, log_q = 0;
  size_t floats = 0;
  size_t bytes() const { return floats * sizeof(float); }

 private:
  size_t add(const std::string& name, StateArray::Kind kind, std::vector<int> shape, int layer);
};

class State {
 public:
  explicit State(const StateLayout& layout) : layout_(layout) {}

  // Memory for the state before the first byte. False when there is none.
  bool allocate();

  // Becomes the state before the first byte again.
  void reset();

  // Becomes a copy of another state of the same model.
  void copy_from(const State& other);

  // Converts array `index` of the layout to and from the reference's layout, C-contiguous.
  void read(size_t index, void* out) const;
  void write(size_t index, const void* in);

  const StateLayout& layout() const { return layout_; }
  float* at(size_t offset) { return memory_.data() + offset; }
  size_t bytes() const { return memory_.bytes(); }

  std::atomic<int32_t> position{0};  // bytes read; may be looked at while a call uses the state
  Buffer<int32_t> count;      // [n_layers] tokens the layer's attention has seen
  Buffer<int64_t> processed;  // [n_layers] tokens the layer has processed, for statistics
  int64_t seen = 0;  // bytes read through this state and those it was forked from, for statistics
  std::atomic<bool> in_use{false};

 private:
  void set_prior();

  const StateLayout& layout_;
  Buffer<float> memory_;
};

}  // namespace ghost
