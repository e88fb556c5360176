// Rows of floats in the layout of the kernels: every row filled up to a multiple of 16.
#pragma once

#include <algorithm>
#include <new>
#include <vector>

#include "buffer.h"
#include "matrix.h"

namespace judge {

inline void require_memory(bool allocated) {
  if (!allocated) throw std::bad_alloc();
}

class Rows {
 public:
  Rows(int rows, int columns, const float* from = nullptr, float padding = 0.0f)
      : rows_(rows), columns_(columns), stride_(ghost::padded(columns)) {
    require_memory(values_.allocate(static_cast<size_t>(rows) * static_cast<size_t>(stride_)));
    std::fill(values_.begin(), values_.end(), padding);
    if (from != nullptr) fill(from, rows, 0);
  }

  // Rows [first, first + rows).
  void fill(const float* from, int rows, int first) {
    for (int t = 0; t < rows; ++t, from += columns_) std::copy_n(from, columns_, row(first + t));
  }

  // Rows [first, last row) without their padding, after what `out` has.
  void append_to(std::vector<float>& out, int first = 0) {
    for (int t = first; t < rows_; ++t) out.insert(out.end(), row(t), row(t) + columns_);
  }
  std::vector<float> values(int first = 0) {
    std::vector<float> out;
    append_to(out, first);
    return out;
  }

  float* data() { return values_.data(); }
  float* row(int t) { return values_.data() + static_cast<size_t>(t) * static_cast<size_t>(stride_); }
  int rows() const { return rows_; }
  int columns() const { return columns_; }
  int stride() const { return stride_; }

 private:
  ghost::Buffer<float> values_;
  int rows_, columns_, stride_;
};

}  // namespace judge
