#include "pass.h"

#include <algorithm>

namespace ghost {
namespace {

constexpr uint8_t kPad = 0xFE;

void copy(float* to, const float* from, size_t count) { std::memcpy(to, from, count * sizeof(float)); }

}  // namespace

Member::Member(Pass* pass, int index)
    : pass_(*pass),
      kernels_(pass->kernels),
      config_(pass->weights.config),
      work_(pass->work),
      own_(pass->work.members[static_cast<size_t>(index)]),
      index_(index) {}

void Member::quantise(TokenRows* rows, int t, const float* x, int size, int group) {
  kernels_.quantise_row(x, size, group, rows->q.data() + static_cast<size_t>(t) * rows->width,
                        rows->scale.data() + t, rows->sums.data() + static_cast<size_t>(t) * rows->sums_stride);
}

Activations Member::activations(const TokenRows& rows, int first, int count) const {
  const size_t t = static_cast<size_t>(first);
  return {rows.q.data() + t * rows.width, rows.scale.data() + t, rows.sums.data() + t * rows.sums_stride,
          count, rows.width, rows.sums_stride};
}

void Member::quantise_rows(const float* x, int stride, int size, int n, int group) {
  TokenRows& into = rows(n);
  const Share mine = row_share(n);
  for (int t = mine.begin; t < mine.end; ++t) quantise(&into, t, x + static_cast<size_t>(t) * stride, size, group);
  rows_done(n);
}

void Member::norm_rows(const float* x, const Vector& gain, int n, int group) {
  const int d = config_.d_model;
  TokenRows& into = rows(n);
  const Share mine = row_share(n);
  for (int t = mine.begin; t < mine.end; ++t) {
    kernels_.rms_norm(x + static_cast<size_t>(t) * work_.d_stride, gain.data(), d, into.row_at(t));
    quantise(&into, t, into.row_at(t), d, group);
  }
  rows_done(n);
}

Share Member::linear(const Matrix& w, const TokenRows& rows, int n, float* y, int stride) {
  const Share blocks = own_share(w.blocks());
  const Activations x = activations(rows, 0, n);
  kernels_.linear(w.view(), &x, y, stride, blocks.begin, blocks.end);
  return {blocks.begin * kBlock, blocks.end * kBlock};
}

// h = e + silu(W [e_{t-K+1} | ... | e_t] + b)
void Member::tokenizer() {
  const int d = config_.d_model, taps = config_.d_conv - 1, n = pass_.length;
  const Weights& w = pass_.weights;
  float* e = work_.embeddings.data();
  if (index_ == 0) {
    copy(e, pass_.state.at(pass_.state.layout().tokenizer), static_cast<size_t>(taps) * d);
    for (int t = 0; t < n; ++t) w.embedding.row(pass_.tokens[t], e + static_cast<size_t>(taps + t) * d);
  }
  barrier();
  quantise_rows(e, d, config_.d_conv * d, n, kWholeRow);
  const Share mine = linear(w.tokenizer, rows(n), n, work_.out.data(), work_.d_stride);
  const int end = std::min(mine.end, d);
  for (int t = 0; t < n; ++t) {
    float* h = work_.h.data() + static_cast<size_t>(t) * work_.d_stride;
    float* y = work_.out.data() + static_cast<size_t>(t) * work_.d_stride;
    const float* e_t = e + static_cast<size_t>(taps + t) * d;
    for (int i = mine.begin; i < end; ++i) y[i] = y[i] + w.tokenizer_bias[static_cast<size_t>(i)];
    if (mine.begin < end) kernels_.map(Function::kSilu, y + mine.begin, y + mine.begin, end - mine.begin);
    for (int i = mine.begin; i < end; ++i) h[i] = e_t[i] + y[i];
  }
  barrier();
}

// The depth D_t and the next-byte log-probabilities of every token, from the tokenizer's output.
void Member::predictors() {
  const Weights& w = pass_.weights;
  const int d = config_.d_model, n = pass_.length;
  const bool depth = !config_.depth_layers.empty(), surprise = !config_.surprise_layers.empty();
  if (!depth && !surprise) return;
  const Share tokens = own_share(n);
  for (int t = tokens.begin; depth && t < tokens.end; ++t) {
    const float* h = work_.h.data() + static_cast<size_t>(t) * work_.d_stride;
    float logit = kernels_.lane_dot(h, w.depth.data(), d) + w.depth_bias + w.byte_importance[pass_.tokens[t]];
    kernels_.map(Function::kSigmoid, &logit, &logit, 1);
    work_.depth[static_cast<size_t>(t)] = static_cast<float>(config_.n_layers) * logit;
  }
  if (surprise) {
    quantise_rows(work_.h.data(), work_.d_stride, d, n, kWholeRow);
    const Share mine = linear(w.surprise, rows(n), n, work_.log_q.data(), kVocabulary);
    for (int t = 0; t < n; ++t) {
      float* z = work_.log_q.data() + static_cast<size_t>(t) * kVocabulary;
      for (int i = mine.begin; i < mine.end; ++i) z[i] = z[i] + w.surprise_bias[static_cast<size_t>(i)];
    }
    barrier();
    for (int t = tokens.begin; t < tokens.end; ++t) {
      kernels_.log_softmax(work_.log_q.data() + static_cast<size_t>(t) * kVocabulary, kVocabulary);
    }
  }
  barrier();
}

// Fills own_.kept (and own_.score) with the tokens that the layer processes; returns how many. Every member decides for
// itself, from the same numbers.
int Member::select(int layer, const LayerWeights& w) {
  const float* before = pass_.state.at(pass_.state.layout().log_q);  // log q of the last byte
  const float threshold = static_cast<float>(config_.surprise_threshold);
  int n = 0;
  for (int t = 0; t < pass_.length; ++t) {
    const uint8_t byte = pass_.tokens[t];
    if (w.routed() && byte == kPad) continue;
    if (w.depth && !(work_.depth[static_cast<size_t>(t)] > static_cast<float>(layer))) continue;
    if (w.surprise) {
      const float* log_q = t == 0 ? before : work_.log_q.data() + static_cast<size_t>(t - 1) * kVocabulary;
      if (!(-log_q[byte] > threshold)) continue;
    }
    if (w.mod) {
      const float* h = work_.h.data() + static_cast<size_t>(t) * work_.d_stride;
      own_.score[n] = kernels_.lane_dot(h, w.router.data(), config_.d_model) + w.router_bias;
      if (!(own_.score[n] > 0.0f)) continue;
    }
    own_.kept[n++] = t;
  }
  if (w.mod) kernels_.map(Function::kSigmoid, own_.score, own_.score, n);
  return n;
}

void Member::head() {
  const int n = pass_.length - pass_.first_output, d = config_.d_model;
  if (n <= 0 || (pass_.logits == nullptr && pass_.hidden == nullptr)) return;
  const float* h = work_.h.data() + static_cast<size_t>(pass_.first_output) * work_.d_stride;
  norm_rows(h, pass_.weights.norm_f, n, kWholeRow);
  TokenRows& normed = rows(n);
  const Share tokens = own_share(n);
  for (int t = tokens.begin; pass_.hidden != nullptr && t < tokens.end; ++t) {
    copy(pass_.hidden + static_cast<size_t>(t) * d, normed.row_at(t), static_cast<size_t>(d));
  }
  if (pass_.logits == nullptr) return;
  const ByteMatrix* w = pass_.weights.embedding.head();
  const Share blocks = own_share(w->blocks);
  const Activations x = activations(normed, 0, n);
  kernels_.linear_bytes(w, &x, pass_.logits, kVocabulary, blocks.begin, blocks.end);
}

void Member::run() {
  tokenizer();
  predictors();
  for (int i = 0; i < config_.n_layers; ++i) {
    const LayerWeights& w = pass_.weights.layers[static_cast<size_t>(i)];
    const int n = select(i, w);
    if (n == 0) continue;
    mixer(w.mixer, w.norm_mixer, i, n);
    if (w.has_attention) attention(w, i, n);
    if (w.has_memory && pass_.memory.entries > 0) memory_query(w, i, n);
    if (config_.d_ff > 0) ffn(w, n);
    leave(w, n);
    if (index_ == 0) pass_.state.processed[static_cast<size_t>(i)] += n;
  }
  head();
}

void run(Pass* pass) {
  pass->team.run([](void* argument, int index) { Member(static_cast<Pass*>(argument), index).run(); }, pass);
  State& state = pass->state;
  const Config& config = pass->weights.config;
  const size_t d = static_cast<size_t>(config.d_model), n = static_cast<size_t>(pass->length);
  copy(state.at(state.layout().tokenizer), pass->work.embeddings.data() + n * d, (config.d_conv - 1) * d);
  if (!config.surprise_layers.empty()) {
    copy(state.at(state.layout().log_q), pass->work.log_q.data() + (n - 1) * kVocabulary, kVocabulary);
  }
  state.position += pass->length;
  state.seen += pass->length;
}

}  // namespace ghost
