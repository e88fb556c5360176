// The memory of a pass: every intermediate array of one chunk of tokens, allocated once per model.
#pragma once

#include "buffer.h"
#include "weights.h"

namespace ghost {

constexpr int kChunk = 64;  // tokens processed together

// Blocks of n tokens' rows that go through several kernels while their results are in the cache: whole groups of what
// the kernels compute together. Measured on v12 beside 4 blocks for any n: a text is read in 0.90 to 0.95 of the time, a
// byte of each of 16 streams in 0.79 to 0.88; beside all blocks, of each of 64 streams in 0.9.
constexpr int kTile = 512;  // blocks times tokens
inline int tile_blocks(int n) { return kTile / n & -8; }
static_assert(kTile / kChunk >= 8, "a tile of a whole chunk is not empty");
// From token to token of a tile's results; n * up_stride(n) <= (kTile + n) * kBlock.
inline int up_stride(int n) { return row_stride(tile_blocks(n) * kBlock); }

// Rows of a few tokens in their quantised form.
struct QuantisedRows {
  Buffer<int8_t> q;      // [tokens][width]
  Vector scale;          // [tokens]
  Buffer<int32_t> sums;  // [tokens][sums_stride]
  int width = 0, sums_stride = 0;

  bool allocate(int tokens, int columns, int groups);
  size_t bytes() const { return q.bytes() + scale.bytes() + sums.bytes(); }
};

// A part of an array.
struct Slice {
  float* start = nullptr;
  float* data() const { return start; }
};

// What is computed per token from a whole row.
struct TokenRows {
  Slice row;              // [tokens][d_stride], normed; the owner's
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
  Vector row;             // rows.row
  Vector embeddings;      // [d_conv][d], of one token
  Vector slots;           // scores of the attention slots
  Vector up;              // [n][up_stride(n)] from the column of the tile on
  int kept[kChunk];       // the tokens that the layer processes
  int first[kChunk + 1];  // of them, the first one of every stream; then their number
  float score[kChunk];    // their Mixture-of-Depths scores, then gates

  bool allocate(const Config& config);
  size_t bytes() const { return rows.bytes() + row.bytes() + embeddings.bytes() + slots.bytes() + up.bytes(); }
};

struct Workspace {
  bool allocate(const Config& config, int members);
  size_t bytes() const { return bytes_; }

  int d_stride = 0, e_stride = 0, f_stride = 0;  // row_stride of d, E, F
  Vector h;         // [tokens][d_stride], the residual stream
  Vector log_q;     // [tokens][256]
  Vector u;         // [kept][d_stride], the layer's own stream
  Vector new_bias;  // [kept], of the strided tokens
  TokenRows rows;   // shared by the team
  // What the tokenizer, the branches of a layer and the head use, one after the other in the same memory: a barrier lies
  // between. `out` is apart from what is read right before it is written, the normed rows from what they go into.
  Vector shared;
  Slice embeddings;            // [d_conv tokens][d]: of every stream its last d_conv - 1 and the new ones
  Slice xc, z;                 // [kept][e_stride]
  Slice dt, y;                 // [kept][e_stride], one array: the scan replaces the steps by its result
  Slice query, read;           // [kept][d_stride], into and out of attention and memory
  Slice new_keys, new_values;  // [kept][d_stride], of a stream's strided tokens from its first row on
  Slice gate;                  // [kept][f_stride]
  Slice out;                   // [kept][d_stride], what a branch adds; before the branch, rows.row
  Buffer<MemberSpace> members;

 private:
  size_t bytes_ = 0;
};

}  // namespace ghost
