// Strided attention: one key and value for every P-th token of the layer's own stream, in a ring of S slots.
//
// The ring is not changed while the chunk's tokens are answered; a slot is looked up either in the ring as it was
// before the chunk or among the chunk's new keys, so every token and head can be computed on its own.
#include "attention.h"

#include <algorithm>
#include <cmath>

#include "pass.h"

namespace ghost {

void answer_head(const Kernels& kernels, const AttentionArguments& a, const float* query, int64_t position, int head,
                 float* scores, float* read) {
  const int64_t stride = a.stride, slots = a.slots;
  const int64_t first_new = (a.count + stride - 1) / stride, latest = position / stride;  // numbers of keys
  const int filled = static_cast<int>(std::min(slots, latest + 1));
  const int size = a.head_size;
  const size_t offset = static_cast<size_t>(head) * size;
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(size)));
  // The number of the key that slot s holds at this position, relative to the chunk's first one; negative: in the ring.
  const auto new_row = [&](int64_t s) { return latest - (latest - s) % slots - first_new; };

  for (int s = 0; s < filled; ++s) {
    const int64_t row = new_row(s);
    const float* key = row < 0 ? a.keys + int64_t{s} * a.row_stride : a.new_keys + row * a.row_stride;
    const float bias = row < 0 ? a.bias[s] : a.new_bias[row];
    scores[s] = kernels.lane_dot(query + offset, key + offset, size) * scale + bias;
  }
  kernels.softmax(scores, filled);
  std::fill(read + offset, read + offset + size, 0.0f);
  for (int s = 0; s < filled; ++s) {
    const int64_t row = new_row(s);
    const float* value = row < 0 ? a.values + int64_t{s} * a.row_stride : a.new_values + row * a.row_stride;
    kernels.axpy(scores[s], value + offset, read + offset, size);
  }
}

void store_new_slots(const AttentionArguments& a, int n) {
  const int64_t stride = a.stride, first_new = (a.count + stride - 1) / stride;
  const size_t row_bytes = static_cast<size_t>(a.row_stride) * sizeof(float);
  for (int64_t row = 0; (first_new + row) * stride < a.count + n; ++row) {
    const int64_t slot = (first_new + row) % a.slots;
    std::memcpy(a.keys + slot * a.row_stride, a.new_keys + row * a.row_stride, row_bytes);
    std::memcpy(a.values + slot * a.row_stride, a.new_values + row * a.row_stride, row_bytes);
    a.bias[slot] = a.new_bias[row];
  }
}

// u += o_proj(attention(norm(u)))
void Member::attention(const LayerWeights& w, int layer, int n) {
  const int d = config_.d_model, d_stride = work_.d_stride, heads = config_.n_heads;
  const StateLayout::Layer& at = pass_.state.layout().layers[static_cast<size_t>(layer)];
  int32_t& count = pass_.state.count[static_cast<size_t>(layer)];
  norm_rows(work_.u.data(), w.norm_attention, n, kWholeRow);
  linear(w.attention.q, rows(n), n, work_.query.data(), d_stride);
  const Share blocks = own_share(w.attention.k.blocks());
  const int stride = config_.attention_stride;
  size_t row = 0;
  for (int t = first_strided(count, stride); t < n; t += stride, ++row) {
    const Activations x = activations(rows(n), t, 1);
    float* key = work_.new_keys.data() + row * d_stride;
    float* value = work_.new_values.data() + row * d_stride;
    kernels_.linear(w.attention.k.view(), &x, key, d_stride, blocks.begin, blocks.end);
    kernels_.linear(w.attention.v.view(), &x, value, d_stride, blocks.begin, blocks.end);
    if (index_ == 0) work_.new_bias[row] = pass_.weights.byte_importance[pass_.tokens[own_.kept[t]]];
  }
  barrier();

  const AttentionArguments arguments{pass_.state.at(at.keys), pass_.state.at(at.values), pass_.state.at(at.bias),
                                     work_.new_keys.data(),   work_.new_values.data(),   work_.new_bias.data(),
                                     count,                   stride,                    config_.attention_slots,
                                     heads,                   d / heads,                 d_stride};
  const Share items = own_share(n * heads);
  for (int i = items.begin; i < items.end; ++i) {
    const size_t at_row = static_cast<size_t>(i / heads) * d_stride;
    answer_head(kernels_, arguments, work_.query.data() + at_row, arguments.count + i / heads, i % heads,
                own_.slots.data(), work_.read.data() + at_row);
  }
  barrier();

  quantise_rows(work_.read.data(), d_stride, d, n, kWholeRow);
  const Share columns = linear(w.attention.o, rows(n), n, work_.out.data(), d_stride);
  for (int t = 0; t < n; ++t) {
    const size_t at_row = static_cast<size_t>(t) * d_stride;
    for (int i = columns.begin; i < columns.end; ++i) work_.u[at_row + i] = work_.u[at_row + i] + work_.out[at_row + i];
  }
  if (index_ == 0) {
    store_new_slots(arguments, n);
    count += n;
  }
  barrier();
}

}  // namespace ghost
