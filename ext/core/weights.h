// A packed model in memory: everything a file holds, in the layout of the kernels.
// Vectors are padded with zeros to a multiple of 16 floats. Symbols: docs/semantics.md.
#pragma once

#include <string>

#include "arena.h"
#include "buffer.h"
#include "config.h"
#include "kernels.h"
#include "matrix.h"
#include "status.h"
#include "storage.h"

namespace ghost {

using Vector = Buffer<float>;

struct MixerWeights {
  Matrix in_x, in_z;        // the two halves of in_proj, (E, d)
  Vector conv_weight;       // [d_conv][row_stride(E)]
  Vector conv_bias;         // E
  Matrix x;                 // x_proj: (R + 2N, E)
  Matrix dt;                // (E, R)
  Vector dt_bias;           // E
  Vector A;                 // [blocks of E][N][16]
  Vector D;                 // E
  Matrix out;               // (d, E)
};

struct ProjectionWeights {
  Matrix q, k, v, o;  // (d, d)
};

struct LayerWeights {
  bool has_attention = false, has_memory = false, mod = false, depth = false, surprise = false;
  bool routed() const { return mod || depth || surprise; }

  Vector router;  // d, Mixture of Depths
  float router_bias = 0;
  Vector norm_mixer;  // d
  MixerWeights mixer;
  Vector norm_attention;  // d
  ProjectionWeights attention;
  Vector norm_memory;  // d
  ProjectionWeights memory;
  Vector null_key;  // d, its unit vector
  Vector memory_gate;
  float memory_gate_bias = 0, score_scale = 0;
  Vector norm_ffn;  // d
  Matrix gate, up;  // (F, d)
  Matrix down;      // (d, F)
};

struct Weights {
  Config config;
  std::string config_json;
  Arena arena;  // of the matrices
  Embedding embedding;
  Matrix tokenizer;  // (d, K d)
  Vector tokenizer_bias;
  Vector byte_importance;  // 256
  Vector depth;            // d
  float depth_bias = 0;
  Matrix surprise;  // (256, d)
  Vector surprise_bias;
  Buffer<LayerWeights> layers;
  Vector norm_f;  // d
  size_t bytes = 0;        // of memory, all weights
  int64_t parameters = 0;  // trained ones
  std::vector<StorageKind> storage;  // of the file
};

// Reads and checks the packed file at `path` (docs/file-format.md). The error is a sentence that names the file.
Status load_weights(const std::string& path, const Kernels& kernels, Weights* weights);

}  // namespace ghost
