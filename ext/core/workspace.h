// The memory of a pass: every intermediate array of one chunk of tokens, allocated once per model.
#pragma once

#include "buffer.h"
#include "weights.h"

namespace ghost {

constexpr int kChunk = 64;  // tokens processed together

// Rows of a few tokens in their quantised form.
struct QuantisedRows {
  Buffer<int8_t> q;      // [tokens][width]
  Vector scale;          // [tokens]
  Buffer<int32_t> sums;  // [tokens][sums_stride]
  int width = 0, sums_stride = 0;

  bool allocate(const Config& config, int tokens);
  size_t bytes() const { return q.bytes() + scale.bytes() + sums.bytes(); }
};

// What is computed per token from a whole row.
struct TokenRows {
  Vector row;             // [tokens][d_stride], normed
  Vector projected;       // [tokens][p_stride], of x_proj: r, B, C
  Vector gate;            // [tokens], of the memory query
  Vector depth;           // [tokens], D_t
  QuantisedRows outer;    // what a branch reads
  QuantisedRows inner;    // what is quantised within the Mamba block, where `outer` is still read
  int d_stride = 0, p_stride = 0;

  bool allocate(const Config& config, int tokens);
  size_t bytes() const;
  float* row_at(int t) { return row.data() + static_cast<size_t>(t) * d_stride; }
  float* projected_at(int t) { return projected.data() + static_cast<size_t>(t) * p_stride; }
};

// What each member of the team has for itself. A single token's rows are here: every member computes them, which is
// cheaper than meeting at a barrier.
struct MemberSpace {
  TokenRows rows;         // of one token
  Vector embeddings;      // [d_conv][d], of one token
  Vector slots;           // scores of the attention slots
  int kept[kChunk];       // the tokens that the layer processes
  int first[kChunk + 1];  // of them, the first one of every stream; then their number
  float score[kChunk];    // their Mixture-of-Depths scores, then gates

  bool allocate(const Config& config);
  size_t bytes() const { return rows.bytes() + embeddings.bytes() + slots.bytes(); }
};

// A part of an array.
struct Slice {
  float* start = nullptr;
  float* data() const { return start; }
};

struct Workspace {
  bool allocate(const Config& config, int members);
  size_t bytes() const { return bytes_; }

  int d_stride = 0, e_stride = 0, f_stride = 0;  // row_stride of d, E, F
  Vector embeddings;            // [d_conv tokens][d]: of every stream its last d_conv - 1 and the new ones
  Vector h;                     // [tokens][d_stride], the residual stream
  Vector log_q;                 // [tokens][256]
  Vector u;                     // [kept][d_stride], the layer's own stream
  Vector wide;                  // the mixer's arrays and, when it is done (a barrier lies between), the FFN's
  Slice xc, z, dt, y;           // [kept][e_stride]
  Vector out;                   // [kept][d_stride], what a branch adds
  Vector query, read;           // [kept][d_stride], into and out of attention and memory
  Vector new_keys, new_values;  // [kept][d_stride], of a stream's strided tokens from its first row on
  Vector new_bias;              // [kept], of the strided tokens
  Slice gate, up;               // [kept][f_stride]
  TokenRows rows;               // shared by the team
  Buffer<MemberSpace> members;

 private:
  size_t bytes_ = 0;
};

}  // namespace ghost
