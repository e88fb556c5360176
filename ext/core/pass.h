// One chunk of tokens through the network (docs/semantics.md sections 4 and 5), computed by all members of a team.
//
// Work on whole rows (norms, quantisation) is shared out by token, work on channels and output rows by blocks of 16;
// a barrier stands between the two. Each output element is computed by one member in the pinned order, so the number of
// members cannot change a bit.
#pragma once

#include "kernels.h"
#include "memory.h"
#include "state.h"
#include "team.h"
#include "weights.h"
#include "workspace.h"

namespace ghost {

constexpr int kWholeRow = 1 << 30;  // as the group of a quantisation: one sum for the whole row

// What a chunk is computed from and into.
struct Pass {
  const Weights& weights;
  const Kernels& kernels;
  MemorySnapshot& memory;
  Team& team;
  Workspace& work;
  State& state;
  const uint8_t* tokens;
  int length;        // 1..kChunk
  int first_output;  // results are wanted for the tokens [first_output, length)
  float* logits;     // [length - first_output][256], or nullptr
  float* hidden;     // [length - first_output][d], or nullptr
};

// Computes the chunk and advances the state. The caller holds the team.
void run(Pass* pass);

// One thread's part of a pass.
class Member {
 public:
  Member(Pass* pass, int index);
  void run();

 private:
  // Tokenizer, predictors and head (pass.cpp).
  void tokenizer();
  void predictors();
  int select(int layer, const LayerWeights& w);
  void head();

  // The branches of a layer on its n kept tokens (block.cpp, attention.cpp, memory_query.cpp).
  void mixer(const MixerWeights& w, const Vector& norm, int layer, int n);
  void ffn(const LayerWeights& w, int n);
  void leave(const LayerWeights& w, int n);
  void attention(const LayerWeights& w, int layer, int n);
  void memory_query(const LayerWeights& w, int layer, int n);
  void read_memory(const LayerWeights& w, int layer, int n);

  // Every member's share of n tokens for work whose results go into rows(n): all of them when there is one token.
  Share row_share(int n) const { return n == 1 ? Share{0, 1} : own_share(n); }
  // This member's share of n items.
  Share own_share(int n) const { return share(n, index_, pass_.team.size()); }
  TokenRows& rows(int n) { return n == 1 ? own_.rows : work_.rows; }
  // After the work on rows(n).
  void rows_done(int n) {
    if (n > 1) pass_.team.barrier();
  }
  void barrier() { pass_.team.barrier(); }

  void quantise(TokenRows* rows, int t, const float* x, int size, int group);
  Activations activations(const TokenRows& rows, int first, int count) const;
  // The rows' norm and quantised form: x has `size` elements per token, t-th token at x + t * stride.
  void norm_rows(const float* x, const Vector& gain, int n, int group);
  void quantise_rows(const float* x, int stride, int size, int n, int group);
  // y (n, stride) for this member's share of w's blocks; returns the share in columns.
  Share linear(const Matrix& w, const TokenRows& rows, int n, float* y, int stride);

  Pass& pass_;
  const Kernels& kernels_;
  const Config& config_;
  Workspace& work_;
  MemberSpace& own_;
  const int index_;
};

}  // namespace ghost
