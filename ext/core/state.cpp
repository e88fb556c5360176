#include "state.h"

#include <utility>

#include "kernels.h"
#include "matrix.h"

namespace ghost {
namespace {

// -log 256, rounded once to float.
constexpr float kUniform = static_cast<float>(-5.545177444479562);

int last(const std::vector<int>& shape) { return shape[shape.size() - 1]; }

int rows_of(const StateArray& array) { return array.shape.size() == 1 ? 1 : array.shape[0]; }

// Where element (channel, n) of a scan state is.
size_t scan_index(int channel, int n, int d_state) {
  return (static_cast<size_t>(channel / kBlock) * d_state + n) * kBlock + channel % kBlock;
}

}  // namespace

size_t StateLayout::add(const std::string& name, StateArray::Kind kind, std::vector<int> shape, int layer) {
  const size_t offset = floats;
  int stride = 0;
  if (kind == StateArray::kRows) {
    // The tokenizer reads several rows as one, so its rows follow each other without padding.
    stride = layer < 0 ? last(shape) : row_stride(last(shape));
    const size_t rows = shape.size() == 1 ? 1 : static_cast<size_t>(shape[0]);
    floats += (rows * stride + kBlock - 1) / kBlock * kBlock;
  } else if (kind == StateArray::kScan) {
    floats += static_cast<size_t>(padded(shape[0])) * shape[1];
  }
  arrays.push_back({name, kind, std::move(shape), layer, offset, stride});
  return offset;
}

StateLayout::StateLayout(const Config& config) {
  const int taps = config.d_conv - 1, d = config.d_model, slots = config.attention_slots;
  add("position", StateArray::kPosition, {}, -1);
  tokenizer = add("tokenizer.conv", StateArray::kRows, {taps, d}, -1);
  if (!config.surprise_layers.empty()) log_q = add("surprise.log_q", StateArray::kRows, {kVocabulary}, -1);
  for (int i = 0; i < config.n_layers; ++i) {
    const std::string layer = "layers." + std::to_string(i);
    Layer at{};
    at.conv = add(layer + ".mixer.conv", StateArray::kRows, {taps, config.d_inner()}, i);
    at.ssm = add(layer + ".mixer.ssm", StateArray::kScan, {config.d_inner(), config.d_state}, i);
    if (contains(config.attention_layers, i)) {
      at.keys = add(layer + ".attention.keys", StateArray::kRows, {slots, d}, i);
      at.values = add(layer + ".attention.values", StateArray::kRows, {slots, d}, i);
      at.bias = add(layer + ".attention.bias", StateArray::kRows, {slots}, i);
      add(layer + ".attention.count", StateArray::kCount, {}, i);
    }
    layers.push_back(at);
  }
}

bool State::allocate() {
  const size_t n = layout_.layers.size();
  if (!memory_.allocate(layout_.floats) || !count.allocate(n) || !processed.allocate(n)) return false;
  set_prior();
  return true;
}

void State::reset() {
  std::memset(memory_.data(), 0, memory_.bytes());
  std::memset(count.data(), 0, count.bytes());
  std::memset(processed.data(), 0, processed.bytes());
  position = 0;
  seen = 0;
  set_prior();
}

// Before the first byte every byte is as probable; everything else starts with zeros.
void State::set_prior() {
  for (const StateArray& array : layout_.arrays) {
    if (array.name != "surprise.log_q") continue;
    for (int i = 0; i < kVocabulary; ++i) at(array.offset)[i] = kUniform;
  }
}

void State::copy_from(const State& other) {
  std::memcpy(memory_.data(), other.memory_.data(), memory_.bytes());
  std::memcpy(count.data(), other.count.data(), count.bytes());
  std::memcpy(processed.data(), other.processed.data(), processed.bytes());
  position = other.position.load();
  seen = other.seen;
}

void State::read(size_t index, void* out) const {
  const StateArray& array = layout_.arrays[index];
  const float* data = memory_.data() + array.offset;
  if (array.kind == StateArray::kPosition || array.kind == StateArray::kCount) {
    const int32_t value = array.layer < 0 ? position.load() : count[static_cast<size_t>(array.layer)];
    std::memcpy(out, &value, sizeof value);
    return;
  }
  float* to = static_cast<float*>(out);
  const int columns = last(array.shape);
  for (int r = 0; r < rows_of(array); ++r, to += columns) {
    if (array.kind == StateArray::kRows) {
      std::memcpy(to, data + static_cast<size_t>(r) * array.stride, static_cast<size_t>(columns) * sizeof(float));
    } else {
      for (int n = 0; n < columns; ++n) to[n] = data[scan_index(r, n, columns)];
    }
  }
}

void State::write(size_t index, const void* in) {
  const StateArray& array = layout_.arrays[index];
  float* data = memory_.data() + array.offset;
  if (array.kind == StateArray::kPosition || array.kind == StateArray::kCount) {
    int32_t value;
    std::memcpy(&value, in, sizeof value);
    if (array.layer < 0) {
      position = value;
    } else {
      count[static_cast<size_t>(array.layer)] = value;
    }
    return;
  }
  const float* from = static_cast<const float*>(in);
  const int columns = last(array.shape);
  for (int r = 0; r < rows_of(array); ++r, from += columns) {
    if (array.kind == StateArray::kRows) {
      std::memcpy(data + static_cast<size_t>(r) * array.stride, from, static_cast<size_t>(columns) * sizeof(float));
    } else {
      for (int n = 0; n < columns; ++n) data[scan_index(r, n, columns)] = from[n];
    }
  }
}

}  // namespace ghost
