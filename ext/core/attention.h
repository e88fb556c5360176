// The attention of one layer over its ring of slots (docs/semantics.md section 4), after the projections.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace ghost {

// A chunk's tokens see the ring as it was before the chunk, and the chunk's own keys in the slots that they will fill.
struct AttentionArguments {
  float* keys;              // the ring: [slots][row_stride]
  float* values;            // [slots][row_stride]
  float* bias;              // [slots]
  const float* new_keys;    // of the chunk's strided tokens: [new][row_stride]
  const float* new_values;  // [new][row_stride]
  const float* new_bias;    // [new]
  int64_t count;            // tokens before the chunk
  int stride, slots, heads, head_size, row_stride;
};

// The first token of the chunk whose position in the stream is a multiple of the stride.
inline int first_strided(int64_t count, int stride) { return static_cast<int>((stride - count % stride) % stride); }

// read = softmax(query k / sqrt(head_size) + bias) v of one head, for the token at `position` of the layer's stream;
// query and read are whole rows, scores is work space for `slots` floats, padded.
void answer_head(const Kernels& kernels, const AttentionArguments& a, const float* query, int64_t position, int head,
                 float* scores, float* read);

// Moves the new keys, values and biases of a chunk of n tokens into the ring, in time order.
void store_new_slots(const AttentionArguments& a, int n);

}  // namespace ghost
