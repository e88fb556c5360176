#include "memory.h"

#include "workspace.h"

namespace ghost {
namespace {

// Mean embedding of the first `count` bytes, summed in index order from +0; `row` is work space.
void mean_embedding(const Embedding& embedding, const uint8_t* bytes, int count, int d, float* row, float* mean) {
  for (int i = 0; i < d; ++i) mean[i] = 0.0f;
  for (int j = 0; j < count; ++j) {
    embedding.row(bytes[j], row);
    for (int i = 0; i < d; ++i) mean[i] = mean[i] + row[i];
  }
  for (int i = 0; i < d; ++i) mean[i] = mean[i] / static_cast<float>(count);
}

// y = linear(x), one row.
void project(const Kernels& kernels, const Matrix& w, const float* x, int d, int8_t* q, float* y) {
  float scale;
  int32_t sum;
  kernels.quantise_row(x, d, 1 << 30, q, &scale, &sum);
  const Activations row{q, &scale, &sum, 1, padded(d), 1};
  kernels.linear(w.view(), &row, y, padded(d), 0, w.blocks());
}

}  // namespace

bool MemorySnapshot::build(const Weights& weights, const Kernels& kernels, const float* bank_keys,
                           const uint8_t* bank_values, const int32_t* counts, int count) {
  const int d = weights.config.d_model;
  const size_t n = static_cast<size_t>(count), layers = weights.layers.size();
  entries = count;
  stride = padded(d);
  scores_stride = padded(count + 1);
  const size_t row = static_cast<size_t>(stride);
  Vector embedding, mean;
  Buffer<int8_t> q;
  if (!scores.allocate(static_cast<size_t>(kChunk) * scores_stride) || !keys.allocate(layers) ||
      !values.allocate(layers) || !embedding.allocate(row) || !mean.allocate(row) || !q.allocate(row)) {
    return false;
  }
  for (int i : weights.config.memory_layers) {
    const LayerWeights& w = weights.layers[static_cast<size_t>(i)];
    Vector& layer_keys = keys[static_cast<size_t>(i)];
    Vector& layer_values = values[static_cast<size_t>(i)];
    if (!layer_keys.allocate((n + 1) * row) || !layer_values.allocate(n * row)) return false;
    std::memcpy(layer_keys.data(), w.null_key.data(), row * sizeof(float));
    for (size_t j = 0; j < n; ++j) {
      float* key = layer_keys.data() + (j + 1) * row;
      project(kernels, w.memory.k, bank_keys + j * d, d, q.data(), key);
      kernels.unit(key, d, key);
      mean_embedding(weights.embedding, bank_values + j * kValueBytes, counts[j], d, embedding.data(), mean.data());
      project(kernels, w.memory.v, mean.data(), d, q.data(), layer_values.data() + j * row);
    }
  }
  return true;
}

size_t MemorySnapshot::bytes() const {
  size_t total = scores.bytes();
  for (const Vector& vector : keys) total += vector.bytes();
  for (const Vector& vector : values) total += vector.bytes();
  return total;
}

}  // namespace ghost
