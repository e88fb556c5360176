// Single kernels for Python, what the tests and the conformance suite compare with the reference: the matmuls, RMSNorm,
// elementary functions and the choice of a byte.
#include <cstring>

#include "fp_control.h"
#include "padded_rows.h"
#include "sampling.h"

namespace ghost {
namespace {

constexpr int kWholeRow = 1 << 30;

// Quantised rows of x (tokens, columns), with sums per group.
struct QuantisedRows {
  Buffer<int8_t> q;
  Buffer<float> scale;
  Buffer<int32_t> sums;
  Activations view{};

  QuantisedRows(const Kernels& kernels, const py::array& x, int group) {
    const int tokens = static_cast<int>(x.shape(0)), columns = static_cast<int>(x.shape(1));
    const int groups = (columns + group - 1) / group, stride = padded(columns);
    require_memory(q.allocate(static_cast<size_t>(tokens) * stride) && scale.allocate(static_cast<size_t>(tokens)) &&
                   sums.allocate(static_cast<size_t>(tokens) * groups));
    for (int t = 0; t < tokens; ++t) {
      kernels.quantise_row(data_of<float>(x) + static_cast<size_t>(t) * columns, columns, group,
                           q.data() + static_cast<size_t>(t) * stride, scale.data() + t,
                           sums.data() + static_cast<size_t>(t) * groups);
    }
    view = {q.data(), scale.data(), sums.data(), tokens, stride, groups};
  }
};

py::array_t<float> apply(const Kernels& kernels, const Matrix& w, int rows, const QuantisedRows& x) {
  PaddedRows y(x.view.tokens, rows);
  kernels.linear(w.view(), &x.view, y.data(), y.stride(), 0, w.blocks());
  return y.array();
}

py::array check_trits(const py::object& trits, int rows, int columns) {
  const py::array packed = check_array(trits, "trits", "uint8", {(py::ssize_t{rows} * columns + 4) / 5});
  for (py::ssize_t i = 0; i < packed.size(); ++i) {
    if (data_of<uint8_t>(packed)[i] > 242) throw py::value_error("trits holds a byte above 242.");
  }
  return packed;
}

Source in_memory(const py::array& bytes) {
  return Source(data_of<uint8_t>(bytes), static_cast<uint64_t>(bytes.size()));
}

py::tuple quantise_rows(const py::object& x, const std::string& level) {
  const Kernels& kernels = kernels_at(level);
  const FpControl control;
  const py::array rows = check_rows(x, "x");
  const QuantisedRows quantised(kernels, rows, kWholeRow);
  py::array_t<int8_t> q({rows.shape(0), rows.shape(1)});
  py::array_t<float> scale(rows.shape(0));
  for (py::ssize_t t = 0; t < rows.shape(0); ++t) {
    std::memcpy(q.mutable_data() + t * rows.shape(1), quantised.q.data() + t * quantised.view.stride,
                static_cast<size_t>(rows.shape(1)));
    scale.mutable_data()[t] = quantised.scale[static_cast<size_t>(t)];
  }
  return py::make_tuple(q, scale);
}

py::array_t<float> ternary_linear(const py::object& x, const py::object& trits, const py::object& scale,
                                  const std::string& level) {
  const Kernels& kernels = kernels_at(level);
  const FpControl control;
  const py::array input = check_rows(x, "x"), s = check_array(scale, "scale", "float16", {-1});
  const int rows = static_cast<int>(s.shape(0)), columns = static_cast<int>(input.shape(1));
  Arena arena;
  Matrix w;
  const py::array packed = check_trits(trits, rows, columns);
  Source source = in_memory(packed);
  TritReader reader({&source, 0, source.size()}, int64_t{rows} * columns);
  require_memory(w.build(&reader, Halves{data_of<uint8_t>(s)}, rows, columns, kernels.together, &arena));
  return apply(kernels, w, rows, QuantisedRows(kernels, input, kWholeRow));
}

py::array_t<float> codebook_linear(const py::object& x, const py::object& trits, const py::object& index,
                                   const py::object& codebook, int group, const std::string& level) {
  const Kernels& kernels = kernels_at(level);
  const FpControl control;
  if (group < kBlock || group % kBlock != 0) throw py::value_error("group must be a multiple of 16.");
  const py::array input = check_rows(x, "x"), book = check_array(codebook, "codebook", "float16", {kVocabulary});
  const int columns = static_cast<int>(input.shape(1));
  const py::array indices = check_array(index, "index", "uint8", {-1, (columns + group - 1) / group});
  const int rows = static_cast<int>(indices.shape(0));
  Arena arena;
  Matrix w;
  const py::array packed = check_trits(trits, rows, columns);
  Source source = in_memory(packed), index_source = in_memory(indices);
  TritReader reader({&source, 0, source.size()}, int64_t{rows} * columns);
  require_memory(w.build(&reader, {&index_source, 0, index_source.size()}, Halves{data_of<uint8_t>(book)}, rows,
                         columns, group, kernels.together, &arena));
  return apply(kernels, w, rows, QuantisedRows(kernels, input, group));
}

py::array_t<float> int8_linear(const py::object& x, const py::object& weight, const py::object& scale,
                               const std::string& level) {
  const Kernels& kernels = kernels_at(level);
  const FpControl control;
  const py::array input = check_rows(x, "x"), s = check_array(scale, "scale", "float16", {kVocabulary});
  const py::array w = check_array(weight, "weight", "int8", {kVocabulary, input.shape(1)});
  Embedding embedding;
  require_memory(embedding.allocate(static_cast<int>(input.shape(1))));
  for (int r = 0; r < kVocabulary; ++r) {
    embedding.set_row(r, data_of<int8_t>(w) + r * input.shape(1), Halves{data_of<uint8_t>(s)}[r]);
  }
  const QuantisedRows quantised(kernels, input, kWholeRow);
  py::array_t<float> y({input.shape(0), static_cast<py::ssize_t>(kVocabulary)});
  kernels.linear_bytes(embedding.head(), &quantised.view, y.mutable_data(), kVocabulary, 0, embedding.head()->blocks);
  return y;
}

py::array_t<float> rms_norm(const py::object& x, const py::object& gain, const std::string& level) {
  const Kernels& kernels = kernels_at(level);
  const FpControl control;
  const py::array input = check_rows(x, "x");
  PaddedRows rows(input), weight(check_array(gain, "gain", "float32", {input.shape(1)}));
  for (int t = 0; t < rows.rows(); ++t) kernels.rms_norm(rows.row(t), weight.data(), rows.columns(), rows.row(t));
  return rows.array();
}

py::array_t<float> sum_of_products(const Kernels& kernels, const float* a, const float* b, int n) {
  py::array_t<float> sum(1);
  *sum.mutable_data() = kernels.lane_dot(a, b, n);
  return sum;
}

py::array_t<float> numerics_map(const std::string& name, const py::object& x, const std::string& level) {
  constexpr struct {
    const char* name;
    Function function;
  } kFunctions[] = {{"exp", Function::kExp},         {"log", Function::kLog},   {"log1p", Function::kLog1p},
                    {"sigmoid", Function::kSigmoid}, {"silu", Function::kSilu}, {"softplus", Function::kSoftplus},
                    {"rint", Function::kRint}};
  const Kernels& kernels = kernels_at(level);
  const FpControl control;
  const py::array input = check_array(x, "x", "float32", {-1});
  const float* data = data_of<float>(input);
  const int n = static_cast<int>(input.shape(0));
  if (name == "lane_sum") return sum_of_products(kernels, data, std::vector<float>(input.size(), 1.0f).data(), n);
  if (name == "lane_sum_squares") return sum_of_products(kernels, data, data, n);
  for (const auto& entry : kFunctions) {
    if (name != entry.name) continue;
    py::array_t<float> y(input.shape(0));
    kernels.map(entry.function, data, y.mutable_data(), input.shape(0));
    return y;
  }
  throw py::value_error("There is no function '" + name +
                        "'; there are: exp, log, log1p, sigmoid, silu, softplus, rint, lane_sum, lane_sum_squares.");
}

int chosen(const py::object& logits, float temp, int top_k, float top_p, float min_p, uint64_t seed, uint64_t step,
           const std::string& level) {
  (void)kernels_at(level);  // one that runs here; the choice is the same code at every level
  const FpControl control;
  const py::array input = check_array(logits, "logits", "float32", {kVocabulary});
  return choose_byte(data_of<float>(input), {temp, top_k, top_p, min_p, seed}, step);
}

}  // namespace

void bind_kernels(py::module_* m) {
  m->def("numerics_map", &numerics_map, py::arg("name"), py::arg("x"), py::arg("level"));
  m->def("choose_byte", &chosen, py::arg("logits"), py::arg("temp"), py::arg("top_k"), py::arg("top_p"),
         py::arg("min_p"), py::arg("seed"), py::arg("step"), py::arg("level"));
  m->def("quantise_rows", &quantise_rows, py::arg("x"), py::arg("level"));
  m->def("ternary_linear", &ternary_linear, py::arg("x"), py::arg("trits"), py::arg("scale"), py::arg("level"));
  m->def("codebook_linear", &codebook_linear, py::arg("x"), py::arg("trits"), py::arg("index"), py::arg("codebook"),
         py::arg("group"), py::arg("level"));
  m->def("int8_linear", &int8_linear, py::arg("x"), py::arg("weight"), py::arg("scale"), py::arg("level"));
  m->def("rms_norm", &rms_norm, py::arg("x"), py::arg("gain"), py::arg("level"));
}

}  // namespace ghost
