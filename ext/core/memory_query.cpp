// The per-layer memory query: cosine attention over the snapshot's entries and a learned null slot whose value is zero.
#include <algorithm>

#include "pass.h"

namespace ghost {

// u += sigmoid(g x + b) * o_proj(read), x = norm(u)
void Member::memory_query(const LayerWeights& w, int layer, int n) {
  const int d = config_.d_model, stride = work_.d_stride;
  barrier();
  norm_rows(work_.u.data(), w.norm_memory, n, kWholeRow);
  TokenRows& r = rows(n);
  const Share tokens = row_share(n);
  for (int t = tokens.begin; t < tokens.end; ++t) {
    float& gate = r.gate[static_cast<size_t>(t)];
    gate = kernels_.lane_dot(r.row_at(t), w.memory_gate.data(), d) + w.memory_gate_bias;
    kernels_.map(Function::kSigmoid, &gate, &gate, 1);
  }
  const Share blocks = own_share(w.memory.q.blocks());
  linear(w.memory.q, r.outer, n, blocks, work_.query.data(), stride);
  barrier();

  for (int t = tokens.begin; t < tokens.end; ++t) {
    kernels_.unit(work_.query.data() + static_cast<size_t>(t) * stride, d, r.row_at(t));
  }
  rows_done(n);
  read_memory(w, layer, n);

  quantise_rows(&r.outer, work_.read.data(), stride, d, n, kWholeRow);
  linear(w.memory.o, r.outer, n, blocks, work_.out.data(), stride);
  for (int t = 0; t < n; ++t) {
    const float gate = r.gate[static_cast<size_t>(t)];
    const size_t own = static_cast<size_t>(t) * stride + static_cast<size_t>(blocks.begin) * kBlock;
    kernels_.axpy(gate, work_.out.data() + own, work_.u.data() + own, (blocks.end - blocks.begin) * kBlock);
  }
}

// read = sum over entries of softmax(score_scale * <unit query, unit key>) * value; the null slot only takes its share.
void Member::read_memory(const LayerWeights& w, int layer, int n) {
  MemorySnapshot& memory = pass_.memory;
  const float* keys = memory.keys[static_cast<size_t>(layer)].data();
  const float* values = memory.values[static_cast<size_t>(layer)].data();
  const auto scores = [&](int t) { return memory.scores.data() + static_cast<size_t>(t) * memory.scores_stride; };
  TokenRows& r = rows(n);

  const Share slots = own_share(memory.entries + 1);
  for (int t = 0; t < n; ++t) {
    for (int j = slots.begin; j < slots.end; ++j) {
      const float* key = keys + static_cast<size_t>(j) * memory.stride;
      scores(t)[j] = kernels_.lane_dot(r.row_at(t), key, config_.d_model) * w.score_scale;
    }
  }
  barrier();

  const Share tokens = own_share(n);
  for (int t = tokens.begin; t < tokens.end; ++t) kernels_.softmax(scores(t), memory.entries + 1);
  barrier();

  const Share blocks = own_share(memory.stride / kBlock);
  const int begin = blocks.begin * kBlock, size = (blocks.end - blocks.begin) * kBlock;
  for (int t = 0; t < n; ++t) {
    float* read = work_.read.data() + static_cast<size_t>(t) * work_.d_stride + begin;
    std::fill(read, read + size, 0.0f);
    for (int j = 0; j < memory.entries; ++j) {
      kernels_.axpy(scores(t)[j + 1], values + static_cast<size_t>(j) * memory.stride + begin, read, size);
    }
  }
  barrier();
}

}  // namespace ghost
