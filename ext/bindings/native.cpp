// ghost_ref._native: the runtime for Python. Checks arguments, releases the interpreter lock, calls the core.
#include <pthread.h>
#include <pybind11/stl.h>

#include "arrays.h"
#include "crc32c.h"
#include "dispatch.h"
#include "measure.h"
#include "model_object.h"

namespace ghost {
namespace {

ModelPointer load_model(const std::string& path, int threads, const std::string& level) {
  std::unique_ptr<Model> model;
  Status status;
  {
    const py::gil_scoped_release release;
    status = Model::load(path, threads, level, &model);
  }
  throw_value_error(status);
  return std::make_shared<PyModel>(std::move(model));
}

PyState new_state(const ModelPointer& model) {
  PyState result{model, nullptr};
  throw_runtime_error((*model)->new_state(&result.state));
  return result;
}

PyState fork(const PyState& from) {
  PyState result{from.model, nullptr};
  throw_runtime_error((*from.model)->fork(from.state.get(), &result.state));
  return result;
}

std::vector<py::ssize_t> batch_shape(const StateArray& array) {
  std::vector<py::ssize_t> shape{1};
  shape.insert(shape.end(), array.shape.begin(), array.shape.end());
  return shape;
}

bool is_integer(const StateArray& array) {
  return array.kind == StateArray::kPosition || array.kind == StateArray::kCount;
}

py::dict to_dict(const PyState& self) {
  std::unique_ptr<State> copy;  // refused while a call uses the state
  throw_runtime_error((*self.model)->fork(self.state.get(), &copy));
  py::dict result;
  const std::vector<StateArray>& arrays = copy->layout().arrays;
  for (size_t i = 0; i < arrays.size(); ++i) {
    const py::dtype dtype = is_integer(arrays[i]) ? py::dtype::of<int32_t>() : py::dtype::of<float>();
    py::array out(dtype, batch_shape(arrays[i]));
    copy->read(i, out.mutable_data());
    result[py::str(arrays[i].name)] = out;
  }
  return result;
}

void load_dict(PyState* self, const py::dict& values) {
  const std::vector<StateArray>& arrays = self->state->layout().arrays;
  std::unique_ptr<State> state;
  throw_runtime_error((*self->model)->new_state(&state));
  for (size_t i = 0; i < arrays.size(); ++i) {
    const std::string name = "state['" + arrays[i].name + "']";
    if (!values.contains(arrays[i].name)) throw py::value_error(name + " is missing.");
    const py::array array = check_array(values[py::str(arrays[i].name)], name.c_str(),
                                        is_integer(arrays[i]) ? "int32" : "float32", batch_shape(arrays[i]));
    if (is_integer(arrays[i]) && *data_of<int32_t>(array) < 0) throw py::value_error(name + " must not be negative.");
    state->write(i, array.data());
  }
  if (values.size() != arrays.size()) throw py::value_error("The state has arrays that this model does not know.");
  throw_runtime_error((*self->model)->assign(self->state.get(), *state));
}

py::tuple forward(const PyModel& self, PyState* state, const py::object& tokens, const std::string& logits,
                  bool hidden) {
  Model* model = self.running();
  const py::array bytes = check_array(tokens, "tokens", "uint8", {-1});
  if (logits != "all" && logits != "last" && logits != "none") {
    throw py::value_error("logits must be 'all', 'last' or 'none', got '" + logits + "'.");
  }
  const bool last_only = logits == "last";
  const py::ssize_t n = bytes.shape(0), rows = last_only ? 1 : n;
  if (last_only && n == 0) throw py::value_error("There is no last position in zero tokens.");
  py::object logits_out = py::none(), hidden_out = py::none();
  float *logits_data = nullptr, *hidden_data = nullptr;
  if (logits != "none") {
    py::array_t<float> array({rows, static_cast<py::ssize_t>(kVocabulary)});
    logits_data = array.mutable_data();
    logits_out = array;
  }
  if (hidden) {
    py::array_t<float> array({rows, static_cast<py::ssize_t>(model->config().d_model)});
    hidden_data = array.mutable_data();
    hidden_out = array;
  }
  SignalCheck signals;
  Status status;
  {
    const py::gil_scoped_release release;
    status = model->forward(state->state.get(), data_of<uint8_t>(bytes), n, last_only, logits_data, hidden_data,
                            {SignalCheck::keep_going, &signals});
  }
  if (signals.error) std::rethrow_exception(signals.error);
  throw_runtime_error(status);
  return py::make_tuple(logits_out, hidden_out);
}

void set_memory(const PyModel& self, const py::object& keys, const py::object& values, const py::object& counts) {
  Model* model = self.running();
  const py::array k = check_array(keys, "keys", "float32", {-1, model->config().d_model});
  const py::ssize_t n = k.shape(0);
  const py::array v = check_array(values, "values", "uint8", {n, kValueBytes});
  const py::array c = check_array(counts, "counts", "int32", {n});
  for (py::ssize_t i = 0; i < n; ++i) {
    const int32_t count = data_of<int32_t>(c)[i];
    if (count < 1 || count > kValueBytes) throw py::value_error("counts must be in 1..8.");
  }
  Status status;
  {
    const py::gil_scoped_release release;
    status = model->set_memory(data_of<float>(k), data_of<uint8_t>(v), data_of<int32_t>(c), n);
  }
  throw_value_error(status);
}

uint32_t checksum(const py::buffer& buffer, uint32_t before) {
  const py::buffer_info info = buffer.request();
  if (PyBuffer_IsContiguous(info.view(), 'C') == 0) throw py::value_error("crc32c needs a contiguous buffer.");
  const py::gil_scoped_release release;
  const size_t size = static_cast<size_t>(info.size * info.itemsize);
  return ~crc32c_update(~before, static_cast<const uint8_t*>(info.ptr), size);
}

std::vector<std::string> levels() {
  const Kernels* tables[kMaxLevels];
  std::vector<std::string> names;
  for (int i = 0, count = available_levels(tables); i < count; ++i) names.emplace_back(tables[i]->name);
  return names;
}

py::dict better_levels(const std::string& level, const std::string& chosen_by) {
  const Kernels* kernels = nullptr;
  throw_value_error(select_kernels(level, &kernels));
  LevelNotUsed found[kMaxLevels];
  py::dict reasons;
  for (int i = 0, count = levels_not_used(kernels, chosen_by, found); i < count; ++i) {
    reasons[py::str(found[i].name)] = found[i].reason;
  }
  return reasons;
}

std::string default_level() {
  const Kernels* kernels = nullptr;
  throw_value_error(select_kernels("", &kernels));
  return kernels->name;
}

py::tuple processed(const PyState& self) {
  std::unique_ptr<State> copy;
  throw_runtime_error((*self.model)->fork(self.state.get(), &copy));
  return py::make_tuple(std::vector<int64_t>(copy->processed.begin(), copy->processed.end()), copy->seen);
}

py::tuple work(const PyState& self) {
  std::unique_ptr<State> copy;
  throw_runtime_error((*self.model)->fork(self.state.get(), &copy));
  const Work work = work_of((*self.model)->config(), *copy);
  return py::make_tuple(work.bytes, work.products, work.updates);
}

py::dict spread(const Spread& s) {
  return py::dict(py::arg("median") = s.median, py::arg("lowest") = s.lowest, py::arg("highest") = s.highest);
}

py::dict speed(const PyModel& self, int repeats) {
  Model* model = self.running();
  Speed found;
  Status status;
  {
    const py::gil_scoped_release release;
    status = measure_speed(model, repeats, &found);
  }
  throw_value_error(status);
  py::object floor = py::none();
  if (found.peaks != nullptr) {
    floor = py::dict(py::arg("times") = spread(found.times_floor), py::arg("instruction") = found.peaks->instruction,
                     py::arg("integer_peak") = spread(found.integer_peak),
                     py::arg("float_peak") = spread(found.float_peak));
  }
  return py::dict(py::arg("prefill") = spread(found.prefill), py::arg("decode") = spread(found.decode),
                  py::arg("first_byte") = spread(found.first_byte), py::arg("products_per_byte") = found.products,
                  py::arg("scan_updates_per_byte") = found.updates, py::arg("floor") = floor);
}

void bind_model(py::module_* m) {
  py::class_<PyState>(*m, "State", "The recurrent state of one stream.")
      .def("fork", &fork)
      .def("to_dict", &to_dict)
      .def("load_dict", &load_dict, py::arg("values"))
      .def("processed", &processed)
      .def_property_readonly("bytes", [](const PyState& self) { return self.state->bytes(); })
      .def("work", &work)
      .def_property_readonly("position", [](const PyState& self) { return self.state->position.load(); });
  py::class_<PyModel, ModelPointer> model(*m, "Model", "A packed model.");
  model.def(py::init(&load_model), py::arg("path"), py::arg("threads") = 1, py::arg("level") = "")
      .def_property_readonly("config_json", [](const PyModel& self) { return self->config_json(); })
      .def_property_readonly("level", [](const PyModel& self) { return self->level(); })
      .def_property_readonly("threads", [](const PyModel& self) { return self->threads(); })
      .def("memory_bytes", [](const PyModel& self) { return self->memory_bytes(); },
           py::call_guard<py::gil_scoped_release>())
      .def("new_state", &new_state)
      .def("forward", &forward, py::arg("state"), py::arg("tokens"), py::arg("logits") = "all",
           py::arg("hidden") = false)
      .def("speed", &speed, py::arg("repeats"))
      .def("set_memory", &set_memory, py::arg("keys"), py::arg("values"), py::arg("counts"));
  bind_streams(&model);
}

}  // namespace
}  // namespace ghost

PYBIND11_MODULE(_native, m, pybind11::mod_gil_not_used()) {
  pthread_atfork(nullptr, nullptr, [] { ++ghost::forks; });
  m.doc() = "The Ghost runtime (ext/core).";
  m.def("levels", &ghost::levels);
  m.def("default_level", &ghost::default_level);
  m.def("levels_not_used", &ghost::better_levels, pybind11::arg("level") = "",
        pybind11::arg("chosen_by") = "GHOST_ISA");
  m.def("crc32c", &ghost::checksum, pybind11::arg("buffer"), pybind11::arg("before") = 0);
  ghost::bind_model(&m);
  ghost::bind_kernels(&m);
  ghost::bind_components(&m);
}
