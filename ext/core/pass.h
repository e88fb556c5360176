// One chunk of tokens through the network (docs/semantics.md sections 4 and 5), computed by all members of a team.
//
// The tokens are those of one stream, or of several: every stream has consecutive tokens and a state of its own, and
// all share the matrices' products. Work on whole rows (norms, quantisation) is shared out by token, work on channels
// and output rows by blocks of 16; a barrier stands between the two. Each output element is computed by one member in
// the pinned order, so neither the number of members nor the company of other streams can change a bit.
#pragma once

#include "attention.h"
#include "kernels.h"
#include "memory.h"
#include "state.h"
#include "team.h"
#include "weights.h"
#include "workspace.h"

namespace ghost {

constexpr int kWholeRow = 1 << 30;  // as the group of a quantisation: one sum for the whole row

// The tokens [begin, end) of a chunk, which belong to one stream; at least one.
struct Stream {
  State* state;
  int begin, end;
};

// What a chunk is computed from and into.
struct Pass {
  const Weights& weights;
  const Kernels& kernels;
  MemorySnapshot& memory;
  Team& team;
  Workspace& work;
  const Stream* streams;  // in the order of their tokens, which they cover
  int stream_count;
  const uint8_t* tokens;
  int length;        // 1..kChunk
  int first_output;  // results are wanted for the tokens [first_output, length)
  float* logits;     // [length - first_output][256], or nullptr
  float* hidden;     // [length - first_output][d], or nullptr
};

// Computes the chunk and advances the states. The caller holds the team.
void run(Pass* pass);

// One thread's part of a pass.
class Member {
 public:
  Member(Pass* pass, int index);
  void run();

 private:
  // Tokenizer, predictors and head (pass.cpp).
  void embed();
  void tokenizer();
  void keep_embeddings();
  void predictors();
  void surprise_logits();
  void surprise_log_softmax();
  int select(int layer, const LayerWeights& w);
  bool keeps(int t, const float* log_q, int layer, const LayerWeights& w, float* score) const;
  void head();

  // The branches of a layer on its n kept tokens (block.cpp, attention.cpp, memory_query.cpp). The mixer makes u from h,
  // the others add to u, each after a barrier; `leave` puts u back into h and ends with one.
  void mixer(const MixerWeights& w, const Vector& norm, int layer, int n);
  void convolve(const MixerWeights& w, int layer, int n);
  void project(const MixerWeights& w, int n);
  void scan(const MixerWeights& w, int layer, int n);
  void attention(const LayerWeights& w, int layer, int n);
  void project_heads(const LayerWeights& w, int layer, int n);
  void answer_heads(int layer, int n);
  AttentionArguments attention_arguments(int layer, int stream);
  void memory_query(const LayerWeights& w, int layer, int n);
  void read_memory(const LayerWeights& w, int layer, int n);
  void ffn(const LayerWeights& w, int n);
  void leave(const LayerWeights& w, int n);

  // Every member's share of n tokens for work whose results go into rows(n): all of them when there is one token.
  Share row_share(int n) const { return n == 1 ? Share{0, 1} : own_share(n); }
  // This member's share of n items.
  Share own_share(int n) const { return share(n, index_, pass_.team.size()); }
  TokenRows& rows(int n) { return n == 1 ? own_.rows : work_.rows; }
  // After the work on rows(n).
  void rows_done(int n) {
    if (n > 1) barrier();
  }
  void barrier() { pass_.team.barrier(index_); }

  // The rows of [window, token], d_conv * d_model floats, that the tokenizer reads for token t of stream s.
  float* embedding_row(int t, int s);
  // The kept tokens of stream s.
  Share kept_of(int s) const { return {own_.first[s], own_.first[s + 1]}; }
  const StateLayout::Layer& state_of(int layer) const {
    return pass_.streams[0].state->layout().layers[static_cast<size_t>(layer)];
  }
  float* h_of_kept(int i) { return work_.h.data() + static_cast<size_t>(own_.kept[i]) * work_.d_stride; }

  void quantise(QuantisedRows* rows, int t, const float* x, int size, int group);
  Activations activations(const QuantisedRows& rows, int first, int count) const;
  // The rows' norm and outer quantised form: x has d_stride floats per token.
  void norm_rows(const float* x, const Vector& gain, int n, int group);
  void quantise_rows(QuantisedRows* into, const float* x, int stride, int size, int n, int group);
  // y (n, stride) in the columns of these blocks of w's rows.
  void linear(const Matrix& w, const QuantisedRows& rows, int n, Share blocks, float* y, int stride);
  // u += out in the columns of these blocks.
  void add_to_u(int n, Share blocks);
  // Calls function(part) for parts of the blocks whose results stay in the cache until the next kernel reads them.
  template <typename Function>
  void tiles(Share blocks, int n, Function function) {
    const int step = tile_blocks(n);
    for (int b = blocks.begin; b < blocks.end; b += step) function(Share{b, b + step < blocks.end ? b + step : blocks.end});
  }

  Pass& pass_;
  const Kernels& kernels_;
  const Config& config_;
  Workspace& work_;
  MemberSpace& own_;
  const int index_;
};

}  // namespace ghost
