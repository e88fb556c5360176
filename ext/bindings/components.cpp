// Single kernels for Python, what the tests and the conformance suite compare with the reference: the rest of the
// kernel table, and the attention over a ring of slots.
#include <algorithm>

#include "attention.h"
#include "fp_control.h"
#include "padded_rows.h"

namespace ghost {
namespace {

// (channels, states) in the scan's layout [blocks][states][16], zero beyond the last channel.
class ChannelBlocks {
 public:
  explicit ChannelBlocks(const py::array& x)
      : channels_(static_cast<int>(x.shape(0))), states_(static_cast<int>(x.shape(1))) {
    require_memory(values_.allocate(static_cast<size_t>(padded(channels_)) * states_));
    const float* from = data_of<float>(x);
    for (int c = 0; c < channels_; ++c) {
      for (int n = 0; n < states_; ++n) values_[index(c, n)] = *from++;
    }
  }

  py::array_t<float> array() const {
    py::array_t<float> out({static_cast<py::ssize_t>(channels_), static_cast<py::ssize_t>(states_)});
    float* to = out.mutable_data();
    for (int c = 0; c < channels_; ++c) {
      for (int n = 0; n < states_; ++n) *to++ = values_[index(c, n)];
    }
    return out;
  }

  float* data() { return values_.data(); }

 private:
  size_t index(int c, int n) const { return (static_cast<size_t>(c / kBlock) * states_ + n) * kBlock + c % kBlock; }

  Buffer<float> values_;
  int channels_, states_;
};

py::array check_vector(const py::object& x, const char* name, py::ssize_t size) {
  return check_array(x, name, "float32", {size});
}

py::array_t<float> unit(const py::object& x, const std::string& level) {
  const Kernels& kernels = kernels_at(level);
  const FpControl control;
  PaddedRows rows(check_rows(x, "x"));
  for (int t = 0; t < rows.rows(); ++t) kernels.unit(rows.row(t), rows.columns(), rows.row(t));
  return rows.array();
}

py::array_t<float> softmax(const py::object& x, const std::string& level) {
  const Kernels& kernels = kernels_at(level);
  const FpControl control;
  PaddedRows rows(check_rows(x, "x"));
  for (int t = 0; t < rows.rows(); ++t) kernels.softmax(rows.row(t), rows.columns());
  return rows.array();
}

// The kernel takes whole blocks: -inf changes neither the maximum nor, as exp(-inf) = +0, the sum.
py::array_t<float> log_softmax(const py::object& x, const std::string& level) {
  const Kernels& kernels = kernels_at(level);
  const FpControl control;
  PaddedRows rows(check_rows(x, "x"), -__builtin_inff());
  for (int t = 0; t < rows.rows(); ++t) kernels.log_softmax(rows.row(t), rows.stride());
  return rows.array();
}

py::array_t<float> lane_dot(const py::object& a, const py::object& b, const std::string& level) {
  const Kernels& kernels = kernels_at(level);
  const FpControl control;
  const py::array rows = check_rows(a, "a"), vector = check_vector(b, "b", rows.shape(1));
  const int n = static_cast<int>(rows.shape(1));
  py::array_t<float> y(rows.shape(0));
  for (py::ssize_t t = 0; t < rows.shape(0); ++t) {
    y.mutable_data()[t] = kernels.lane_dot(data_of<float>(rows) + t * n, data_of<float>(vector), n);
  }
  return y;
}

py::array_t<float> slot_sum(const py::object& p, const py::object& values, const std::string& level) {
  const Kernels& kernels = kernels_at(level);
  const FpControl control;
  const py::array weights = check_rows(p, "p"), slots = check_rows(values, "values");
  if (slots.shape(0) != weights.shape(1)) throw py::value_error("values must have one row for every column of p.");
  const int n = static_cast<int>(slots.shape(1));
  const float* weight = data_of<float>(weights);
  PaddedRows y(weights.shape(0), n);
  for (int t = 0; t < y.rows(); ++t) {
    for (py::ssize_t j = 0; j < slots.shape(0); ++j) {
      kernels.axpy(*weight++, data_of<float>(slots) + j * n, y.row(t), n);
    }
  }
  return y.array();
}

py::array_t<float> swiglu(const py::object& gate, const py::object& up, const std::string& level) {
  const Kernels& kernels = kernels_at(level);
  const FpControl control;
  const py::array g = check_rows(gate, "gate");
  const py::array u = check_array(up, "up", "float32", {g.shape(0), g.shape(1)});
  PaddedRows gates(g), ups(u);
  for (int t = 0; t < gates.rows(); ++t) kernels.swiglu(gates.row(t), ups.row(t), gates.row(t), gates.stride());
  return gates.array();
}

py::tuple conv_silu(const py::object& x, const py::object& weight, const py::object& bias, const py::object& past,
                    const std::string& level) {
  const Kernels& kernels = kernels_at(level);
  const FpControl control;
  const py::array input = check_rows(x, "x");
  const py::ssize_t channels = input.shape(1);
  const py::array w = check_array(weight, "weight", "float32", {channels, -1});
  const py::ssize_t taps = w.shape(1);
  if (taps < 1 || taps > kMaxTaps) throw py::value_error("weight must have 1 to 16 columns, one for every tap.");
  PaddedRows taps_first(taps, channels), window(taps - 1, channels), rows(input);
  for (py::ssize_t c = 0; c < channels; ++c) {
    for (py::ssize_t k = 0; k < taps; ++k) taps_first.row(static_cast<int>(k))[c] = data_of<float>(w)[c * taps + k];
  }
  PaddedRows b(check_vector(bias, "bias", channels));
  window.fill(check_array(past, "past", "float32", {taps - 1, channels}), 0);
  const ConvArguments arguments{taps_first.data(), b.data(),    window.data(),          rows.data(),
                                rows.data(),       static_cast<int>(taps), rows.rows(), rows.stride()};
  kernels.conv_silu(&arguments, 0, blocks_of(rows.columns()));
  return py::make_tuple(rows.array(), window.array());
}

py::tuple scan_gated(const py::object& dt_raw, const py::object& dt_bias, const py::object& x, const py::object& z,
                     const py::object& B, const py::object& C, const py::object& A, const py::object& D,
                     const py::object& past, const std::string& level) {
  const Kernels& kernels = kernels_at(level);
  const FpControl control;
  const py::array input = check_rows(x, "x");
  const py::ssize_t tokens = input.shape(0), channels = input.shape(1);
  const std::vector<py::ssize_t> like_x{tokens, channels};
  const py::array decay = check_array(A, "A", "float32", {channels, -1});
  const py::ssize_t states = decay.shape(1);
  if (states < 1) throw py::value_error("A must have at least one column.");
  const auto positive = [](float a) { return a > 0.0f; };
  if (std::any_of(data_of<float>(decay), data_of<float>(decay) + decay.size(), positive)) {
    throw py::value_error("A must not be positive.");
  }
  const py::array b = check_array(B, "Bm", "float32", {tokens, states});
  const py::array c = check_array(C, "Cm", "float32", {tokens, states});
  PaddedRows dt(check_array(dt_raw, "dt_raw", "float32", like_x)), bias(check_vector(dt_bias, "dt_bias", channels));
  PaddedRows xs(input), gate(check_array(z, "z", "float32", like_x)), skip(check_vector(D, "D", channels));
  ChannelBlocks rates(decay), state(check_array(past, "past", "float32", {channels, states}));
  PaddedRows bc(tokens, 2 * states), out(tokens, channels);
  for (int t = 0; t < bc.rows(); ++t) {
    std::copy_n(data_of<float>(b) + t * states, states, bc.row(t));
    std::copy_n(data_of<float>(c) + t * states, states, bc.row(t) + states);
  }
  const ScanArguments arguments{dt.data(),    bias.data(), xs.data(),    gate.data(), bc.data(),
                                rates.data(), skip.data(), state.data(), out.data(),  static_cast<int>(states),
                                out.rows(),   out.stride(), bc.stride()};
  kernels.scan(&arguments, 0, blocks_of(out.columns()));
  return py::make_tuple(out.array(), state.array());
}

py::tuple strided_attention(const py::object& q, const py::object& k, const py::object& v, const py::object& bias,
                            const py::object& keys, const py::object& values, const py::object& slot_bias,
                            int32_t count, int n_heads, int stride, const std::string& level) {
  const Kernels& kernels = kernels_at(level);
  const FpControl control;
  const py::array queries = check_rows(q, "q");
  const py::ssize_t tokens = queries.shape(0), d = queries.shape(1);
  if (n_heads < 1 || d % n_heads != 0) throw py::value_error("n_heads must divide the columns of q.");
  if (stride < 1 || count < 0) throw py::value_error("stride must be at least 1 and count at least 0.");
  const py::array old_keys = check_rows(keys, "keys", d);
  const py::ssize_t slots = old_keys.shape(0);
  if (slots < 1) throw py::value_error("keys must have at least one row.");
  PaddedRows ring_keys(old_keys), ring_values(check_array(values, "values", "float32", {slots, d}));
  PaddedRows ring_bias(check_vector(slot_bias, "slot_bias", slots));

  const int first = first_strided(count, stride);
  const py::ssize_t added = tokens <= first ? 0 : (tokens - first + stride - 1) / stride;
  PaddedRows new_keys(check_array(k, "k", "float32", {added, d}));
  PaddedRows new_values(check_array(v, "v", "float32", {added, d}));
  const py::array new_bias = check_vector(bias, "bias", added);
  PaddedRows rows(queries), out(tokens, d), scores(1, slots);
  const AttentionArguments arguments{ring_keys.data(), ring_values.data(), ring_bias.data(), new_keys.data(),
                                     new_values.data(), data_of<float>(new_bias), count, stride, ring_keys.rows(),
                                     n_heads, out.columns() / n_heads, out.stride()};
  for (int t = 0; t < out.rows(); ++t) {
    for (int head = 0; head < n_heads; ++head) {
      answer_head(kernels, arguments, rows.row(t), arguments.count + t, head, scores.data(), out.row(t));
    }
  }
  store_new_slots(arguments, out.rows());
  return py::make_tuple(out.array(), ring_keys.array(), ring_values.array(),
                        py::array_t<float>(slots, ring_bias.data()));
}

}  // namespace

void bind_components(py::module_* m) {
  m->def("unit", &unit, py::arg("x"), py::arg("level"));
  m->def("softmax", &softmax, py::arg("x"), py::arg("level"));
  m->def("log_softmax", &log_softmax, py::arg("x"), py::arg("level"));
  m->def("lane_dot", &lane_dot, py::arg("a"), py::arg("b"), py::arg("level"));
  m->def("slot_sum", &slot_sum, py::arg("p"), py::arg("values"), py::arg("level"));
  m->def("swiglu", &swiglu, py::arg("gate"), py::arg("up"), py::arg("level"));
  m->def("conv_silu", &conv_silu, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("past"), py::arg("level"));
  m->def("scan_gated", &scan_gated, py::arg("dt_raw"), py::arg("dt_bias"), py::arg("x"), py::arg("z"), py::arg("Bm"),
         py::arg("Cm"), py::arg("A"), py::arg("D"), py::arg("past"), py::arg("level"));
  m->def("strided_attention", &strided_attention, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("bias"),
         py::arg("keys"), py::arg("values"), py::arg("slot_bias"), py::arg("count"), py::arg("n_heads"),
         py::arg("stride"), py::arg("level"));
}

}  // namespace ghost
