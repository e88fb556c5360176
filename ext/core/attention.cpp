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
  barrier();
  norm_rows(work_.u.data(), w.norm_attention, n, kWholeRow);
  project_heads(w, layer, n);
  barrier();
  answer_heads(layer, n);
  barrier();

  QuantisedRows& read = rows(n).outer;
  quantise_rows(&read, work_.read.data(), work_.d_stride, config_.d_model, n, kWholeRow);
  const Share blocks = own_share(w.attention.o.blocks());
  linear(w.attention.o, read, n, blocks, work_.out.data(), work_.d_stride);
  add_to_u(n, blocks);
  for (int s = 0; index_ == 0 && s < pass_.stream_count; ++s) {
    const int size = kept_of(s).end - kept_of(s).begin;
    store_new_slots(attention_arguments(layer, s), size);
    pass_.streams[s].state->count[static_cast<size_t>(layer)] += size;
  }
}

// The queries, and every strided token's key and value: in the rows from the stream's first one on, in time order.
void Member::project_heads(const LayerWeights& w, int layer, int n) {
  const QuantisedRows& x = rows(n).outer;
  const Share blocks = own_share(w.attention.q.blocks());
  linear(w.attention.q, x, n, blocks, work_.query.data(), work_.d_stride);
  const int stride = config_.attention_stride;
  for (int s = 0; s < pass_.stream_count; ++s) {
    const Share kept = kept_of(s);
    size_t row = static_cast<size_t>(kept.begin);
    const int32_t count = pass_.streams[s].state->count[static_cast<size_t>(layer)];
    for (int t = kept.begin + first_strided(count, stride); t < kept.end; t += stride, ++row) {
      const Activations one = activations(x, t, 1);
      float* key = work_.new_keys.data() + row * work_.d_stride;
      float* value = work_.new_values.data() + row * work_.d_stride;
      kernels_.linear(w.attention.k.view(), &one, key, work_.d_stride, blocks.begin, blocks.end);
      kernels_.linear(w.attention.v.view(), &one, value, work_.d_stride, blocks.begin, blocks.end);
      if (index_ == 0) work_.new_bias[row] = pass_.weights.byte_importance[pass_.tokens[own_.kept[t]]];
    }
  }
}

AttentionArguments Member::attention_arguments(int layer, int stream) {
  State& state = *pass_.streams[stream].state;
  const StateLayout::Layer& at = state_of(layer);
  const size_t row = static_cast<size_t>(kept_of(stream).begin), first = row * work_.d_stride;
  return {state.at(at.keys),
          state.at(at.values),
          state.at(at.bias),
          work_.new_keys.data() + first,
          work_.new_values.data() + first,
          work_.new_bias.data() + row,
          state.count[static_cast<size_t>(layer)],
          config_.attention_stride,
          config_.attention_slots,
          config_.n_heads,
          config_.d_model / config_.n_heads,
          work_.d_stride};
}

// This member's share of all tokens' heads.
void Member::answer_heads(int layer, int n) {
  const int heads = config_.n_heads;
  const Share items = own_share(n * heads);
  for (int s = 0; s < pass_.stream_count; ++s) {
    const Share kept = kept_of(s);
    const AttentionArguments arguments = attention_arguments(layer, s);
    for (int i = std::max(items.begin, kept.begin * heads); i < std::min(items.end, kept.end * heads); ++i) {
      const int t = i / heads;
      const size_t row = static_cast<size_t>(t) * work_.d_stride;
      answer_head(kernels_, arguments, work_.query.data() + row, arguments.count + (t - kept.begin), i % heads,
                  own_.slots.data(), work_.read.data() + row);
    }
  }
}

}  // namespace ghost
