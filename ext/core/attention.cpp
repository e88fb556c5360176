// Strided attention: one key and value for every P-th token of the layer's own stream, in a ring of S slots.
//
// The ring is not changed while the chunk's tokens are answered; a slot is looked up either in the ring as it was
// before the chunk or among the chunk's new keys, so every token and head can be computed on its own.
#include <algorithm>
#include <cmath>

#include "pass.h"

namespace ghost {

// u += o_proj(attention(norm(u)))
void Member::attention(const LayerWeights& w, int layer, int n) {
  const int d = config_.d_model, d_stride = work_.d_stride, heads = config_.n_heads;
  const int64_t count = pass_.state.count[static_cast<size_t>(layer)];
  norm_rows(work_.u.data(), w.norm_attention, n, kWholeRow);
  linear(w.attention.q, rows(n), n, work_.query.data(), d_stride);
  const Share blocks = own_share(w.attention.k.blocks());
  const int stride = config_.attention_stride;
  const int first = static_cast<int>((stride - count % stride) % stride);
  size_t slot_row = 0;
  for (int t = first; t < n; t += stride, slot_row += static_cast<size_t>(d_stride)) {
    const Activations x = activations(rows(n), t, 1);
    kernels_.linear(w.attention.k.view(), &x, work_.new_keys.data() + slot_row, d_stride, blocks.begin, blocks.end);
    kernels_.linear(w.attention.v.view(), &x, work_.new_values.data() + slot_row, d_stride, blocks.begin, blocks.end);
  }
  barrier();

  const Share items = own_share(n * heads);
  for (int i = items.begin; i < items.end; ++i) {
    const size_t row = static_cast<size_t>(i / heads) * d_stride;
    answer_head(work_.query.data() + row, work_.read.data() + row, layer, count + i / heads, i % heads);
  }
  barrier();

  quantise_rows(work_.read.data(), d_stride, d, n, kWholeRow);
  const Share columns = linear(w.attention.o, rows(n), n, work_.out.data(), d_stride);
  for (int t = 0; t < n; ++t) {
    const size_t row = static_cast<size_t>(t) * d_stride;
    for (int i = columns.begin; i < columns.end; ++i) work_.u[row + i] = work_.u[row + i] + work_.out[row + i];
  }
  if (index_ == 0) store_new_slots(layer, n);
  barrier();
}

// One head of the token at `position` of the layer's stream.
void Member::answer_head(const float* query, float* read, int layer, int64_t position, int head) {
  const StateLayout::Layer& at = pass_.state.layout().layers[static_cast<size_t>(layer)];
  const int64_t stride = config_.attention_stride, slots = config_.attention_slots;
  const int64_t count = pass_.state.count[static_cast<size_t>(layer)];
  const int64_t first_new = (count + stride - 1) / stride, latest = position / stride;  // numbers of keys
  const int filled = static_cast<int>(std::min(slots, latest + 1));
  const int size = config_.d_model / config_.n_heads;
  const size_t offset = static_cast<size_t>(head) * size;
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(size)));
  // The number of the key that slot s holds at this position, relative to the chunk's first one; negative: in the ring.
  const auto new_row = [&](int64_t s) { return latest - (latest - s) % slots - first_new; };

  float* p = own_.slots.data();
  for (int s = 0; s < filled; ++s) {
    const int64_t row = new_row(s);
    const float* key = row < 0 ? pass_.state.at(at.keys) + static_cast<size_t>(s) * work_.d_stride
                               : work_.new_keys.data() + static_cast<size_t>(row) * work_.d_stride;
    float bias = row < 0 ? pass_.state.at(at.bias)[s] : 0.0f;
    if (row >= 0) {
      const int64_t t = (row + first_new) * stride - count;
      bias = pass_.weights.byte_importance[pass_.tokens[own_.kept[t]]];
    }
    p[s] = kernels_.lane_dot(query + offset, key + offset, size) * scale + bias;
  }
  kernels_.softmax(p, filled);
  std::fill(read + offset, read + offset + size, 0.0f);
  for (int s = 0; s < filled; ++s) {
    const int64_t row = new_row(s);
    const float* value = row < 0 ? pass_.state.at(at.values) + static_cast<size_t>(s) * work_.d_stride
                                 : work_.new_values.data() + static_cast<size_t>(row) * work_.d_stride;
    kernels_.axpy(p[s], value + offset, read + offset, size);
  }
}

// Moves the chunk's new keys, values and biases into the ring, in time order.
void Member::store_new_slots(int layer, int n) {
  const StateLayout::Layer& at = pass_.state.layout().layers[static_cast<size_t>(layer)];
  int32_t& count = pass_.state.count[static_cast<size_t>(layer)];
  const int64_t stride = config_.attention_stride;
  const size_t row_bytes = static_cast<size_t>(work_.d_stride) * sizeof(float);
  const int64_t first_new = (count + stride - 1) / stride;
  for (int64_t number = first_new; number * stride < count + n; ++number) {
    const size_t slot = static_cast<size_t>(number % config_.attention_slots) * work_.d_stride;
    const size_t row = static_cast<size_t>(number - first_new) * work_.d_stride;
    std::memcpy(pass_.state.at(at.keys) + slot, work_.new_keys.data() + row, row_bytes);
    std::memcpy(pass_.state.at(at.values) + slot, work_.new_values.data() + row, row_bytes);
    const uint8_t byte = pass_.tokens[own_.kept[number * stride - count]];
    pass_.state.at(at.bias)[number % config_.attention_slots] = pass_.weights.byte_importance[byte];
  }
  count += n;
}

}  // namespace ghost
