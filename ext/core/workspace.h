// The memory of a pass: every intermediate array of one chunk of tokens, allocated once per model.
#pragma once

#include "buffer.h"
#include "weights.h"

namespace ghost {

constexpr int kChunk = 64;  // tokens processed together

// What is computed per token from a whole row: a normed row, its quantised form, and what goes with it.
struct TokenRows {
  Vector row;            // [tokens][width]
  Vector bc;             // [tokens][bc_stride]: B and C of the scan
  Vector gate;           // [tokens]: of the memory query
  Buffer<int8_t> q;      // [tokens][width]
  Vector scale;          // [tokens]
  Buffer<int32_t> sums;  // [tokens][sums_stride]
  int width = 0, bc_stride = 0, sums_stride = 0;

  bool allocate(const Config& config, int tokens);
  float* row_at(int t) { return row.data() + static_cast<size_t>(t) * width; }
  float* bc_at(int t) { return bc.data() + static_cast<size_t>(t) * bc_stride; }
};

// What each member of the team has for itself. A single token's rows are here: every member computes them, which is
// cheaper than meeting at a barrier.
struct MemberSpace {
  TokenRows rows;       // of one token
  Vector slots;         // scores of the attention slots
  int kept[kChunk];     // the tokens that the layer processes
  float score[kChunk];  // their Mixture-of-Depths scores, then gates
};

struct Workspace {
  bool allocate(const Config& config, int members);
  size_t bytes() const { return bytes_; }

  int d_stride = 0, e_stride = 0, f_stride = 0;  // padded d, E, F
  Vector embeddings;            // [d_conv - 1 + tokens][d]
  Vector h;                     // [tokens][d_stride], the residual stream
  Vector depth;                 // [tokens]
  Vector log_q;                 // [tokens][256]
  Vector u;                     // [kept][d_stride], the layer's own stream
  Vector window;                // [d_conv - 1 + kept][e_stride]
  Vector z, xc, dt, y;          // [kept][e_stride]
  Vector out;                   // [kept][d_stride], what a branch adds
  Vector query, read;           // [kept][d_stride], into and out of attention and memory
  Vector new_keys, new_values;  // [kept][d_stride], of the strided tokens
  Vector new_bias;              // [kept], of the strided tokens
  Vector gate, up;              // [kept][f_stride]
  TokenRows rows;               // shared by the team
  Buffer<MemberSpace> members;

 private:
  size_t bytes_ = 0;
};

}  // namespace ghost
