// Checks of NumPy arguments: the wrong type is a TypeError, the wrong shape a ValueError, and nothing is converted.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "dispatch.h"
#include "status.h"

namespace ghost {

namespace py = pybind11;

inline std::string shape_text(const std::vector<py::ssize_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i > 0 ? ", " : "") + (shape[i] < 0 ? "n" : std::to_string(shape[i]));
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

// A C-contiguous array of exactly this dtype ("float32") and shape; -1 stands for any length.
inline py::array check_array(const py::handle& value, const char* name, const char* dtype,
                             const std::vector<py::ssize_t>& shape) {
  const std::string expected = std::string(name) + " must be a " + dtype + " array of shape " + shape_text(shape);
  if (!py::isinstance<py::array>(value)) {
    throw py::type_error(expected + ", got " + std::string(py::str(py::type::of(value).attr("__name__"))) + ".");
  }
  py::array array = py::reinterpret_borrow<py::array>(value);
  const std::string found(py::str(array.dtype().attr("name")));
  if (found != dtype || !array.dtype().attr("isnative").cast<bool>()) {
    throw py::type_error(expected + ", got " + found + ".");
  }
  bool fits = array.ndim() == static_cast<py::ssize_t>(shape.size());
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || array.shape(static_cast<int>(i)) == shape[i];
  if (!fits) {
    throw py::value_error(expected + ", got " + shape_text({array.shape(), array.shape() + array.ndim()}) + ".");
  }
  if ((array.flags() & py::array::c_style) == 0) {
    throw py::value_error(expected + ", got one that is not C-contiguous.");
  }
  return array;
}

template <typename T>
const T* data_of(const py::array& array) {
  return static_cast<const T*>(array.data());
}

inline void throw_value_error(const Status& status) {
  if (!status.ok()) throw py::value_error(status.message());
}

// The kernels of a level. ValueError if there is none of that name, or this CPU cannot run it.
inline const Kernels& kernels_at(const std::string& level) {
  const Kernels* kernels = nullptr;
  throw_value_error(select_kernels(level, &kernels));
  return *kernels;
}

void bind_kernels(py::module_* module);
void bind_components(py::module_* module);

}  // namespace ghost
