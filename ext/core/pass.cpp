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

void Member::quantise(QuantisedRows* rows, int t, const float* x, int size, int group) {
  kernels_.quantise_row(x, size, group, rows->q.data() + static_cast<size_t>(t) * rows->width,
                        rows->scale.data() + t, rows->sums.data() + static_cast<size_t>(t) * rows->sums_stride);
}

Activations Member::activations(const QuantisedRows& rows, int first, int count) const {
  const size_t t = static_cast<size_t>(first);
  return {rows.q.data() + t * rows.width, rows.scale.data() + t, rows.sums.data() + t * rows.sums_stride,
          count, rows.width, rows.sums_stride};
}

void Member::quantise_rows(QuantisedRows* into, const float* x, int stride, int size, int n, int group) {
  const Share mine = row_share(n);
  for (int t = mine.begin; t < mine.end; ++t) quantise(into, t, x + static_cast<size_t>(t) * stride, size, group);
  rows_done(n);
}

void Member::norm_rows(const float* x, const Vector& gain, int n, int group) {
  TokenRows& into = rows(n);
  const Share mine = row_share(n);
  for (int t = mine.begin; t < mine.end; ++t) {
    kernels_.rms_norm(x + static_cast<size_t>(t) * work_.d_stride, gain.data(), config_.d_model, into.row_at(t));
    quantise(&into.outer, t, into.row_at(t), config_.d_model, group);
  }
  rows_done(n);
}

void Member::linear(const Matrix& w, const QuantisedRows& rows, int n, Share blocks, float* y, int stride) {
  const Activations x = activations(rows, 0, n);
  kernels_.linear(w.view(), &x, y, stride, blocks.begin, blocks.end);
}

float* Member::embedding_row(int t, int s) {
  if (pass_.length == 1) return own_.embeddings.data();
  return work_.embeddings.data() + static_cast<size_t>(t + s * (config_.d_conv - 1)) * config_.d_model;
}

// Every stream's last embeddings and the new ones.
void Member::embed() {
  const size_t taps = static_cast<size_t>(config_.d_conv - 1), d = static_cast<size_t>(config_.d_model);
  const Share mine = row_share(pass_.length);
  for (int s = 0; s < pass_.stream_count; ++s) {
    const Stream& stream = pass_.streams[s];
    for (int t = std::max(mine.begin, stream.begin); t < std::min(mine.end, stream.end); ++t) {
      float* row = embedding_row(t, s);
      if (t == stream.begin) copy(row, stream.state->at(stream.state->layout().tokenizer), taps * d);
      pass_.weights.embedding.row(pass_.tokens[t], row + taps * d);
    }
  }
  rows_done(pass_.length);
}

// h = e + silu(W [e_{t-K+1} | ... | e_t] + b)
void Member::tokenizer() {
  const int d = config_.d_model, n = pass_.length;
  const Weights& w = pass_.weights;
  embed();
  QuantisedRows& windows = rows(n).outer;
  const Share tokens = row_share(n), blocks = own_share(w.tokenizer.blocks());
  for (int s = 0; s < pass_.stream_count; ++s) {
    const Stream& stream = pass_.streams[s];
    for (int t = std::max(tokens.begin, stream.begin); t < std::min(tokens.end, stream.end); ++t) {
      quantise(&windows, t, embedding_row(t, s), config_.d_conv * d, kWholeRow);
    }
  }
  rows_done(n);
  linear(w.tokenizer, windows, n, blocks, work_.out.data(), work_.d_stride);
  const int begin = blocks.begin * kBlock, end = std::min(blocks.end * kBlock, d);
  for (int s = 0; s < pass_.stream_count && begin < end; ++s) {
    for (int t = pass_.streams[s].begin; t < pass_.streams[s].end; ++t) {
      float* h = work_.h.data() + static_cast<size_t>(t) * work_.d_stride;
      float* y = work_.out.data() + static_cast<size_t>(t) * work_.d_stride;
      const float* e = embedding_row(t, s) + (config_.d_conv - 1) * d;
      kernels_.add(y + begin, w.tokenizer_bias.data() + begin, y + begin, end - begin);
      kernels_.map(Function::kSilu, y + begin, y + begin, end - begin);
      kernels_.add(e + begin, y + begin, h + begin, end - begin);
    }
  }
  // The chunk's rows are needed for other things after the barrier, the states' own until it when there is one token.
  if (n > 1) keep_embeddings();
  barrier();
  if (n == 1) keep_embeddings();
}

// Every stream's last embeddings into its state, by the first member.
void Member::keep_embeddings() {
  const size_t taps = static_cast<size_t>(config_.d_conv - 1), d = static_cast<size_t>(config_.d_model);
  for (int s = 0; index_ == 0 && s < pass_.stream_count; ++s) {
    State& state = *pass_.streams[s].state;
    copy(state.at(state.layout().tokenizer), embedding_row(pass_.streams[s].end - 1, s) + d, taps * d);
  }
}

// The depth D_t and the next-byte log-probabilities of every token, from the tokenizer's output.
void Member::predictors() {
  const Weights& w = pass_.weights;
  const int n = pass_.length;
  if (!config_.depth_layers.empty()) {
    const Share tokens = row_share(n);
    for (int t = tokens.begin; t < tokens.end; ++t) {
      const float* h = work_.h.data() + static_cast<size_t>(t) * work_.d_stride;
      float logit = kernels_.lane_dot(h, w.depth.data(), config_.d_model) + w.depth_bias +
                    w.byte_importance[pass_.tokens[t]];
      kernels_.map(Function::kSigmoid, &logit, &logit, 1);
      rows(n).depth[static_cast<size_t>(t)] = static_cast<float>(config_.n_layers) * logit;
    }
  }
  if (!config_.surprise_layers.empty()) return surprise_logits();
  if (!config_.depth_layers.empty()) rows_done(n);
}

void Member::surprise_logits() {
  const Weights& w = pass_.weights;
  const int n = pass_.length;
  QuantisedRows& x = rows(n).outer;
  quantise_rows(&x, work_.h.data(), work_.d_stride, config_.d_model, n, kWholeRow);
  const Share blocks = own_share(w.surprise.blocks());
  linear(w.surprise, x, n, blocks, work_.log_q.data(), kVocabulary);
  for (int t = 0; t < n; ++t) {
    float* z = work_.log_q.data() + static_cast<size_t>(t) * kVocabulary + blocks.begin * kBlock;
    kernels_.add(z, w.surprise_bias.data() + blocks.begin * kBlock, z, (blocks.end - blocks.begin) * kBlock);
  }
  if (n == pass_.stream_count) return rows_done(n);  // no token follows another one: log q is for the next chunk
  barrier();
  surprise_log_softmax();
  barrier();
}

void Member::surprise_log_softmax() {
  const Share tokens = own_share(pass_.length);
  for (int t = tokens.begin; t < tokens.end; ++t) {
    kernels_.log_softmax(work_.log_q.data() + static_cast<size_t>(t) * kVocabulary, kVocabulary);
  }
}

// Whether the layer processes token t; log_q: the prediction of its byte.
bool Member::keeps(int t, const float* log_q, int layer, const LayerWeights& w, float* score) const {
  const uint8_t byte = pass_.tokens[t];
  if (w.routed() && byte == kPad) return false;
  const TokenRows& r = pass_.length == 1 ? own_.rows : work_.rows;
  if (w.depth && !(r.depth[static_cast<size_t>(t)] > static_cast<float>(layer))) return false;
  if (w.surprise && !(-log_q[byte] > static_cast<float>(config_.surprise_threshold))) return false;
  if (!w.mod) return true;
  const float* h = work_.h.data() + static_cast<size_t>(t) * work_.d_stride;
  *score = kernels_.lane_dot(h, w.router.data(), config_.d_model) + w.router_bias;
  return *score > 0.0f;
}

// Fills own_.kept, first and score with the tokens that the layer processes; returns how many. Every member decides for
// itself, from the same numbers.
int Member::select(int layer, const LayerWeights& w) {
  int n = 0;
  for (int s = 0; s < pass_.stream_count; ++s) {
    const Stream& stream = pass_.streams[s];
    const float* log_q = stream.state->at(stream.state->layout().log_q);  // of the last byte
    own_.first[s] = n;
    for (int t = stream.begin; t < stream.end; ++t) {
      if (keeps(t, log_q, layer, w, &own_.score[n])) own_.kept[n++] = t;
      log_q = work_.log_q.data() + static_cast<size_t>(t) * kVocabulary;
    }
  }
  own_.first[pass_.stream_count] = n;
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
  const Activations x = activations(normed.outer, 0, n);
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
    for (int s = 0; index_ == 0 && s < pass_.stream_count; ++s) {
      const Share kept = kept_of(s);
      pass_.streams[s].state->processed[static_cast<size_t>(i)] += kept.end - kept.begin;
    }
  }
  if (!config_.surprise_layers.empty() && pass_.length == pass_.stream_count) surprise_log_softmax();
  head();
}

void run(Pass* pass) {
  const auto member = [](void* argument, int index) { Member(static_cast<Pass*>(argument), index).run(); };
  pass->team.run(member, pass, pass->length);
  const Config& config = pass->weights.config;
  for (int s = 0; s < pass->stream_count; ++s) {
    const Stream& stream = pass->streams[s];
    State& state = *stream.state;
    if (!config.surprise_layers.empty()) {
      const size_t last = static_cast<size_t>(stream.end - 1);
      copy(state.at(state.layout().log_q), pass->work.log_q.data() + last * kVocabulary, kVocabulary);
    }
    state.position += stream.end - stream.begin;
    state.seen += stream.end - stream.begin;
  }
}

}  // namespace ghost
