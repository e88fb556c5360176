// Rows of floats as the kernels want them: every row filled up to a multiple of 16.
#pragma once

#include <algorithm>
#include <new>

#include "arrays.h"
#include "matrix.h"

namespace ghost {

inline void require_memory(bool allocated) {
  if (!allocated) throw std::bad_alloc();
}

// A float32 array (rows, columns) with at least one column, both small enough to count in an int.
inline py::array check_rows(const py::object& x, const char* name, py::ssize_t columns = -1) {
  constexpr py::ssize_t kLongest = 1 << 30;
  const py::array rows = check_array(x, name, "float32", {-1, columns});
  if (rows.shape(1) < 1) throw py::value_error(std::string(name) + " must have at least one column.");
  if (rows.shape(0) > kLongest || rows.shape(1) > kLongest) {
    throw py::value_error(std::string(name) + " must not have an axis longer than 2^30.");
  }
  return rows;
}

class PaddedRows {
 public:
  PaddedRows(py::ssize_t rows, py::ssize_t columns, float padding = 0.0f)
      : rows_(static_cast<int>(rows)), columns_(static_cast<int>(columns)), stride_(padded(columns_)) {
    require_memory(values_.allocate(static_cast<size_t>(rows_) * stride_));
    for (int t = 0; t < rows_; ++t) {
      for (int i = columns_; i < stride_; ++i) row(t)[i] = padding;
    }
  }

  // A vector, as one row, or a matrix.
  explicit PaddedRows(const py::array& x, float padding = 0.0f)
      : PaddedRows(x.ndim() == 1 ? 1 : x.shape(0), x.shape(x.ndim() - 1), padding) {
    fill(x, 0);
  }

  // Rows [first, first + rows of x) become those of x.
  void fill(const py::array& x, int first) {
    const float* from = data_of<float>(x);
    const py::ssize_t rows = x.size() / columns_;
    for (py::ssize_t t = 0; t < rows; ++t) {
      std::copy_n(from + t * columns_, columns_, row(first + static_cast<int>(t)));
    }
  }

  // Rows [first, rows) without their padding.
  py::array_t<float> array(int first = 0) {
    py::array_t<float> out({static_cast<py::ssize_t>(rows_ - first), static_cast<py::ssize_t>(columns_)});
    for (int t = first; t < rows_; ++t) {
      std::copy_n(row(t), columns_, out.mutable_data() + static_cast<py::ssize_t>(t - first) * columns_);
    }
    return out;
  }

  float* data() { return values_.data(); }
  float* row(int t) { return values_.data() + static_cast<size_t>(t) * stride_; }
  int rows() const { return rows_; }
  int columns() const { return columns_; }
  int stride() const { return stride_; }

 private:
  Buffer<float> values_;
  int rows_, columns_, stride_;
};

}  // namespace ghost
