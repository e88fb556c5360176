// Maps, rows, matmuls, convolution and scan; other components have files of their own.
#include "components.h"

#include <cmath>
#include <limits>

#include "cases.h"
#include "rows.h"

namespace judge {
namespace {

using ghost::Function;
using ghost::Kernels;

Rows rows_of(const Array& x, float padding = 0.0f) {
  const int columns = x.shape.back();
  return Rows(static_cast<int>(x.values.size() / static_cast<size_t>(columns)), columns, x.values.data(), padding);
}

// ---- functions of one number and of a row

template <Function function>
Outputs map(const Kernels& kernels, const Case& vectors) {
  Array x = vectors.array("x", {-1});
  std::vector<float> y(x.values.size());
  kernels.map(function, x.values.data(), y.data(), static_cast<int64_t>(y.size()));
  return {{"y", y}};
}

Outputs lane_sum(const Kernels& kernels, const Case& vectors) {
  const Array x = vectors.array("x", {-1, -1});
  const std::vector<float> ones(static_cast<size_t>(x.shape[1]), 1.0f);
  std::vector<float> y;
  for (int t = 0; t < x.shape[0]; ++t) y.push_back(kernels.lane_dot(x.row(t), ones.data(), x.shape[1]));
  return {{"y", y}};
}

Outputs rms_norm(const Kernels& kernels, const Case& vectors) {
  Rows x = rows_of(vectors.array("x", {-1, -1}));
  Rows gain = rows_of(vectors.array("gain", {x.columns()}));
  for (int t = 0; t < x.rows(); ++t) kernels.rms_norm(x.row(t), gain.data(), x.columns(), x.row(t));
  return {{"y", x.values()}};
}

Outputs unit(const Kernels& kernels, const Case& vectors) {
  Rows x = rows_of(vectors.array("x", {-1, -1}));
  for (int t = 0; t < x.rows(); ++t) kernels.unit(x.row(t), x.columns(), x.row(t));
  return {{"y", x.values()}};
}

Outputs slot_softmax(const Kernels& kernels, const Case& vectors) {
  Rows z = rows_of(vectors.array("z", {-1, -1}));
  for (int t = 0; t < z.rows(); ++t) kernels.softmax(z.row(t), z.columns());
  return {{"y", z.values()}};
}

// The kernel takes whole blocks: -inf changes neither the maximum nor, as exp(-inf) = +0, the sum.
Outputs log_softmax(const Kernels& kernels, const Case& vectors) {
  Rows z = rows_of(vectors.array("z", {-1, -1}), -std::numeric_limits<float>::infinity());
  for (int t = 0; t < z.rows(); ++t) kernels.log_softmax(z.row(t), z.stride());
  return {{"y", z.values()}};
}

Outputs row_dot(const Kernels& kernels, const Case& vectors) {
  const Array x = vectors.array("x", {-1, -1});
  const Array weight = vectors.array("weight", {x.shape[1]});
  std::vector<float> y;
  for (int t = 0; t < x.shape[0]; ++t) y.push_back(kernels.lane_dot(x.row(t), weight.row(0), x.shape[1]));
  return {{"y", y}};
}

Outputs pairwise_dot(const Kernels& kernels, const Case& vectors) {
  const Array x = vectors.array("x", {-1, -1});
  const Array keys = vectors.array("keys", {-1, x.shape[1]});
  std::vector<float> y;
  for (int t = 0; t < x.shape[0]; ++t) {
    for (int j = 0; j < keys.shape[0]; ++j) y.push_back(kernels.lane_dot(x.row(t), keys.row(j), x.shape[1]));
  }
  return {{"y", y}};
}

Outputs slot_sum(const Kernels& kernels, const Case& vectors) {
  const Array p = vectors.array("p", {-1, -1});
  const Array values = vectors.array("values", {p.shape[1], -1});
  Rows y(p.shape[0], values.shape[1]);
  for (int t = 0; t < y.rows(); ++t) {
    for (int j = 0; j < p.shape[1]; ++j) kernels.axpy(p.row(t)[j], values.row(j), y.row(t), y.columns());
  }
  return {{"y", y.values()}};
}

Outputs swiglu(const Kernels& kernels, const Case& vectors) {
  Rows gate = rows_of(vectors.array("gate", {-1, -1}));
  Rows up = rows_of(vectors.array("up", {gate.rows(), gate.columns()}));
  for (int t = 0; t < gate.rows(); ++t) kernels.swiglu(gate.row(t), up.row(t), gate.row(t), gate.stride());
  return {{"y", gate.values()}};
}

// ---- matmuls

constexpr int kWholeRow = 1 << 30;

struct QuantisedRows {
  ghost::Buffer<int8_t> q;
  ghost::Buffer<float> scale;
  ghost::Buffer<int32_t> sums;
  ghost::Activations view{};

  QuantisedRows(const Kernels& kernels, const Array& x, int group) {
    const int tokens = x.shape[0], columns = x.shape[1], stride = ghost::padded(columns);
    const int groups = group >= columns ? 1 : (columns + group - 1) / group;
    const auto rows = static_cast<size_t>(tokens);
    require_memory(q.allocate(rows * static_cast<size_t>(stride)) && scale.allocate(rows) &&
                   sums.allocate(rows * static_cast<size_t>(groups)));
    for (int t = 0; t < tokens; ++t) {
      kernels.quantise_row(x.row(t), columns, group, q.data() + int64_t{t} * stride, scale.data() + t,
                           sums.data() + int64_t{t} * groups);
    }
    view = {q.data(), scale.data(), sums.data(), tokens, stride, groups};
  }
};

// Integers in [-largest, largest].
std::vector<int> integers(const Case& vectors, const Array& x, int largest) {
  std::vector<int> found;
  for (const float value : x.values) {
    if (!(std::fabs(value) <= static_cast<float>(largest)) || value != std::rint(value)) {
      vectors.refuse("has a weight that is no integer of its range");
    }
    found.push_back(static_cast<int>(value));
  }
  return found;
}

// Five trits to a byte, as in a packed file.
std::vector<uint8_t> packed_trits(const Case& vectors, const Array& weight) {
  constexpr int kPowers[] = {1, 3, 9, 27, 81};
  const std::vector<int> trits = integers(vectors, weight, 1);
  std::vector<uint8_t> bytes((trits.size() + 4) / 5, 121);  // five zeros
  for (size_t i = 0; i < trits.size(); ++i) {
    bytes[i / 5] = static_cast<uint8_t>(bytes[i / 5] + trits[i] * kPowers[i % 5]);
  }
  return bytes;
}

// Numbers that are float16, as little-endian bytes.
std::vector<uint8_t> halves(const Case& vectors, const Array& x) {
  std::vector<uint8_t> bytes;
  for (const float value : x.values) {
    const float magnitude = std::fabs(value);
    int low = 0, high = 0x7BFF;  // the bits of float16 numbers >= 0 are in their order
    while (low < high) {
      const int middle = (low + high) / 2;
      ghost::half_to_float(static_cast<uint16_t>(middle)) < magnitude ? low = middle + 1 : high = middle;
    }
    if (ghost::half_to_float(static_cast<uint16_t>(low)) != magnitude) vectors.refuse("has a scale that is no float16");
    bytes.push_back(static_cast<uint8_t>(low & 0xFF));
    bytes.push_back(static_cast<uint8_t>(low >> 8 | (std::signbit(value) ? 0x80 : 0)));
  }
  return bytes;
}

Outputs quantise_activations(const Kernels& kernels, const Case& vectors) {
  const Array x = vectors.array("x", {-1, -1});
  const QuantisedRows quantised(kernels, x, kWholeRow);
  std::vector<float> q;
  for (int t = 0; t < x.shape[0]; ++t) {
    const int8_t* row = quantised.view.q + int64_t{t} * quantised.view.stride;
    q.insert(q.end(), row, row + x.shape[1]);
  }
  return {{"q", q}, {"scale", {quantised.scale.begin(), quantised.scale.end()}}};
}

std::vector<float> apply(const Kernels& kernels, const ghost::Matrix& w, const QuantisedRows& x) {
  Rows y(x.view.tokens, w.rows());
  kernels.linear(w.view(), &x.view, y.data(), y.stride(), 0, w.blocks());
  return y.values();
}

Outputs int8_linear(const Kernels& kernels, const Case& vectors, const Array& x, const Array& weight, Array scale) {
  constexpr auto kRows = static_cast<size_t>(ghost::kVocabulary);  // the head has so many: fill up with zeros
  const std::vector<int> values = integers(vectors, weight, 127);
  std::vector<int8_t> rows(values.begin(), values.end());
  rows.resize(kRows * static_cast<size_t>(x.shape[1]));
  scale.values.resize(kRows);
  const std::vector<uint8_t> scales = halves(vectors, scale);
  ghost::Embedding embedding;
  require_memory(embedding.allocate(x.shape[1]));
  for (int r = 0; r < ghost::kVocabulary; ++r) {
    const int8_t* row = rows.data() + static_cast<size_t>(r) * static_cast<size_t>(x.shape[1]);
    embedding.set_row(r, row, ghost::Halves{scales.data()}[r]);
  }
  const QuantisedRows quantised(kernels, x, kWholeRow);
  Rows y(x.shape[0], ghost::kVocabulary);
  kernels.linear_bytes(embedding.head(), &quantised.view, y.data(), y.stride(), 0, embedding.head()->blocks);
  std::vector<float> out;
  for (int t = 0; t < y.rows(); ++t) out.insert(out.end(), y.row(t), y.row(t) + weight.shape[0]);
  return {{"y", out}};
}

Outputs quantised_linear(const Kernels& kernels, const Case& vectors) {
  const Array x = vectors.array("x", {-1, -1}), weight = vectors.array("weight", {-1, x.shape[1]});
  const Array scale = vectors.array("scale", {weight.shape[0]});
  if (vectors.integer("largest_weight", 1) != 1) return int8_linear(kernels, vectors, x, weight, scale);
  const std::vector<uint8_t> trits = packed_trits(vectors, weight), scales = halves(vectors, scale);
  ghost::Source source(trits.data(), trits.size());
  ghost::TritReader reader({&source, 0, source.size()}, int64_t{weight.shape[0]} * x.shape[1]);
  ghost::Arena arena;
  ghost::Matrix w;
  require_memory(w.build(&reader, ghost::Halves{scales.data()}, weight.shape[0], x.shape[1],
                         kernels.together, &arena));
  return {{"y", apply(kernels, w, QuantisedRows(kernels, x, kWholeRow))}};
}

const char* no_such_rows(const Case& vectors) {
  return vectors.array("weight", {-1, -1}).shape[0] > ghost::kVocabulary && vectors.integer("largest_weight", 1) != 1
             ? "the runtime's int8 matrix has 256 rows" : nullptr;
}

const char* no_such_group(const Case& vectors) {
  const int64_t group = vectors.integer("group", 0);
  return group < 1 || group % ghost::kBlock != 0 ? "the runtime's groups are multiples of 16" : nullptr;
}

Outputs codebook_linear(const Kernels& kernels, const Case& vectors) {
  const Array x = vectors.array("x", {-1, -1}), weight = vectors.array("trits", {-1, x.shape[1]});
  const int rows = weight.shape[0], columns = x.shape[1], group = static_cast<int>(vectors.integer("group", 0));
  const std::vector<uint8_t> trits = packed_trits(vectors, weight);
  const std::vector<uint8_t> codebook = halves(vectors, vectors.array("codebook", {ghost::kVocabulary}));
  const Tensor& index = vectors.at("argument/index");
  const int64_t groups = (int64_t{columns} + group - 1) / group;
  if (index.dtype != "U8" || index.shape != std::vector<int64_t>{rows, groups}) {
    vectors.refuse("has an argument index of the wrong type or shape");
  }
  ghost::Source source(trits.data(), trits.size());
  ghost::Source indices(index.data, static_cast<uint64_t>(rows) * static_cast<uint64_t>(groups));
  ghost::TritReader reader({&source, 0, source.size()}, int64_t{rows} * columns);
  ghost::Arena arena;
  ghost::Matrix w;
  require_memory(w.build(&reader, {&indices, 0, indices.size()}, ghost::Halves{codebook.data()}, rows, columns,
                         std::min(group, kWholeRow), kernels.together, &arena));
  return {{"y", apply(kernels, w, QuantisedRows(kernels, x, group))}};
}

// ---- convolution and scan

Outputs conv_silu(const Kernels& kernels, const Case& vectors) {
  const Array x = vectors.array("x", {-1, -1});
  const int tokens = x.shape[0], channels = x.shape[1];
  const Array weight = vectors.array("weight", {channels, -1});
  const int taps = weight.shape[1];
  if (taps > ghost::kMaxTaps) vectors.refuse("has more than 16 taps");
  Rows taps_first(taps, channels), bias = rows_of(vectors.array("bias", {channels})), rows = rows_of(x);
  for (int c = 0; c < channels; ++c) {
    for (int k = 0; k < taps; ++k) taps_first.row(k)[c] = weight.row(c)[k];
  }
  Rows window(taps - 1, channels);
  window.fill(vectors.array("past", {taps - 1, channels}).values.data(), taps - 1, 0);
  const ghost::ConvArguments arguments{taps_first.data(), bias.data(), window.data(), rows.data(),
                                       rows.data(),       taps,        tokens,        rows.stride()};
  kernels.conv_silu(&arguments, 0, ghost::blocks_of(channels));
  return {{"y", rows.values()}, {"present", window.values()}};
}

// (channels, states) to the scan's layout [blocks][states][16], and back.
size_t scan_index(int channel, int state, int states) {
  const int block = channel / ghost::kBlock, lane = channel % ghost::kBlock;
  return (static_cast<size_t>(block) * static_cast<size_t>(states) + static_cast<size_t>(state)) * ghost::kBlock +
         static_cast<size_t>(lane);
}

ghost::Buffer<float> channel_blocks(const Array& x) {
  ghost::Buffer<float> out;
  require_memory(out.allocate(static_cast<size_t>(ghost::padded(x.shape[0])) * static_cast<size_t>(x.shape[1])));
  for (int c = 0; c < x.shape[0]; ++c) {
    for (int n = 0; n < x.shape[1]; ++n) out[scan_index(c, n, x.shape[1])] = x.row(c)[n];
  }
  return out;
}

Outputs scan_gated(const Kernels& kernels, const Case& vectors) {
  Rows x = rows_of(vectors.array("x", {-1, -1}));
  const int tokens = x.rows(), channels = x.columns();
  const Array rates = vectors.array("A", {channels, -1});
  const int states = rates.shape[1];
  Rows dt = rows_of(vectors.array("dt_raw", {tokens, channels})), z = rows_of(vectors.array("z", {tokens, channels}));
  Rows dt_bias = rows_of(vectors.array("dt_bias", {channels})), skip = rows_of(vectors.array("D", {channels}));
  const Array b = vectors.array("Bm", {tokens, states}), c = vectors.array("Cm", {tokens, states});
  ghost::Buffer<float> A = channel_blocks(rates);
  ghost::Buffer<float> state = channel_blocks(vectors.array("past", {channels, states}));
  Rows bc(tokens, 2 * states), out(tokens, channels);
  for (int t = 0; t < tokens; ++t) {
    std::copy_n(b.row(t), states, bc.row(t));
    std::copy_n(c.row(t), states, bc.row(t) + states);
  }
  const ghost::ScanArguments arguments{dt.data(),    dt_bias.data(), x.data(),   z.data(), bc.data(),
                                       A.data(),     skip.data(),    state.data(), out.data(), states,
                                       tokens,       out.stride(),   bc.stride()};
  kernels.scan(&arguments, 0, ghost::blocks_of(channels));
  std::vector<float> present;
  for (int channel = 0; channel < channels; ++channel) {
    for (int n = 0; n < states; ++n) present.push_back(state[scan_index(channel, n, states)]);
  }
  return {{"y", out.values()}, {"present", present}};
}

constexpr Implementation kImplementations[] = {
    {"exp", nullptr, map<Function::kExp>},
    {"log", nullptr, map<Function::kLog>},
    {"log1p", nullptr, map<Function::kLog1p>},
    {"sigmoid", nullptr, map<Function::kSigmoid>},
    {"silu", nullptr, map<Function::kSilu>},
    {"softplus", nullptr, map<Function::kSoftplus>},
    {"rint", nullptr, map<Function::kRint>},
    {"lane_sum", nullptr, lane_sum},
    {"rms_norm", nullptr, rms_norm},
    {"unit", nullptr, unit},
    {"slot_softmax", nullptr, slot_softmax},
    {"log_softmax", nullptr, log_softmax},
    {"row_dot", nullptr, row_dot},
    {"pairwise_dot", nullptr, pairwise_dot},
    {"slot_sum", nullptr, slot_sum},
    {"swiglu", nullptr, swiglu},
    {"quantise_activations", nullptr, quantise_activations},
    {"quantised_linear", no_such_rows, quantised_linear},
    {"codebook_linear", no_such_group, codebook_linear},
    {"conv_silu", nullptr, conv_silu},
    {"scan_gated", nullptr, scan_gated},
    {"strided_attention", nullptr, strided_attention},
    {"choose_byte", nullptr, choose_byte},
};

}  // namespace

const Implementation* find_implementation(const std::string& component) {
  for (const Implementation& implementation : kImplementations) {
    if (component == implementation.component) return &implementation;
  }
  return nullptr;
}

}  // namespace judge
