// The kernel table: one set of function pointers per instruction set, all computing the same bits.
//
// Buffers of features are padded with zeros to a multiple of 16 floats, so kernels work on whole blocks of 16;
// "block" below is 16 consecutive output rows or channels. Weights of padding rows and columns are zero, which keeps
// the padding of every result zero. This header is included by the instruction-set units: plain structs only.
#pragma once

#include <cstdint>

namespace ghost {

constexpr int kBlock = 16;  // floats, rows or channels handled together
constexpr int kVocabulary = 256;
constexpr int kMaxTaps = 16;

// A ternary or codebook matrix: y = (start + sum over groups g of float(S_g) * magnitude_g) * s_x with S_g the sum of
// trit * q over the group.
// One group with start -0 gives float(S) * s_w exactly (-0 + v is v for every v); a codebook sum starts at +0.
// The blocks of rows form strips of `together` blocks, the last one of those that are left.
struct TritMatrix {
  const uint8_t* codes;    // [strips][k_blocks][blocks of the strip][16 rows][4]: bits 2s of byte b hold w + 1 of
                           // column 16 k_block + 4s + b
  const float* magnitude;  // [strips][groups][blocks of the strip][16 rows]
  float start;
  int blocks;        // of 16 rows
  int k_blocks;      // of 16 columns
  int groups;        // magnitudes per row
  int group_blocks;  // k_blocks per group; the last group may have fewer
  int together;      // blocks of a strip: the `together` of the kernels that read it, a power of two
};

// The blocks of the strip that `block` belongs to. Internal linkage: compiled for one instruction set, it must not be
// linked into another.
static inline int strip_size(const TritMatrix& w, int block) {
  const int left = w.blocks - (block & -w.together);
  return left < w.together ? left : w.together;
}

// An int8 matrix (the head). y = (float(S) * scale) * s_x.
struct ByteMatrix {
  const uint8_t* bytes;  // [blocks][k_quads][16 rows][4]: w + 128 of column 4 * k_quad + b
  const float* scale;    // [blocks][16]
  int blocks;
  int k_quads;  // of 4 columns, a multiple of 4
};

// Quantised rows. A row that held Inf or NaN has q = 0 and a NaN scale, which makes its whole output row NaN.
struct Activations {
  const int8_t* q;       // [tokens][stride], zero beyond the row's end
  const float* scale;    // [tokens]
  const int32_t* sums;   // [tokens][groups]: sum of q per group
  int tokens;
  int stride;  // a multiple of 16
  int sums_stride;
};

// One Mamba block's channel-wise part. Rows of T tokens have `stride` floats; weights and state are per block.
struct ConvArguments {
  const float* weight;  // [taps][stride]
  const float* bias;    // [stride]
  float* past;          // [taps - 1][stride]: the inputs before x, oldest first; the call advances them
  const float* x;       // [tokens][stride]
  float* out;           // [tokens][stride]; may be x
  int taps, tokens, stride;
};

struct ScanArguments {
  const float* dt;       // [tokens][stride], before bias and softplus
  const float* dt_bias;  // [stride]
  const float* x;        // [tokens][stride]
  const float* z;        // [tokens][stride]
  const float* bc;       // [tokens][bc_stride]: B (d_state), then C (d_state)
  const float* A;        // [blocks][d_state][16], none positive
  const float* D;        // [stride]
  float* state;          // [blocks][d_state][16]
  float* out;            // [tokens][stride]; may be dt
  int d_state, tokens, stride, bc_stride;
};

enum class Function { kExp, kLog, kLog1p, kSigmoid, kSilu, kSoftplus, kRint };

struct Kernels {
  const char* name;
  int together;  // blocks of rows that `linear` wants in a strip
  // y[i] = function(x[i]), any n.
  void (*map)(Function function, const float* x, float* y, int64_t n);
  // q (padded to a multiple of 16), scale and the sum of q over every `group` elements.
  void (*quantise_row)(const float* x, int n, int group, int8_t* q, float* scale, int32_t* sums);
  // y [tokens][y_stride], rows of blocks [begin, end).
  void (*linear)(const TritMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end);
  void (*linear_bytes)(const ByteMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end);
  // y = (x / sqrt(sum16(x * x) / n + 1e-5)) * gain; x, gain and y are padded.
  void (*rms_norm)(const float* x, const float* gain, int n, float* y);
  // y = x / sqrt(sum16(x * x) + 1e-12); x and y are padded.
  void (*unit)(const float* x, int n, float* y);
  // out = silu(causal depthwise conv + bias) for the channel blocks [begin, end).
  void (*conv_silu)(const ConvArguments* arguments, int begin, int end);
  // out = (scan + D * x) * silu(z) for the channel blocks [begin, end); advances the state.
  void (*scan)(const ScanArguments* arguments, int begin, int end);
  // out[i] = silu(gate[i]) * up[i], n a multiple of 16.
  void (*swiglu)(const float* gate, const float* up, float* out, int n);
  // sum16(a * b), any n.
  float (*lane_dot)(const float* a, const float* b, int n);
  // out = a + b, any n; out may be a or b.
  void (*add)(const float* a, const float* b, float* out, int n);
  // x += weight * (to - x), any n.
  void (*lerp)(float weight, const float* to, float* x, int n);
  // y += p * x, any n.
  void (*axpy)(float p, const float* x, float* y, int n);
  // x[i] = exp(x[i] - max) / sum of them in index order; the buffer is padded, the padding's values do not matter.
  void (*softmax)(float* x, int n);
  // x[i] = (x[i] - max) - log(sum16(exp(x - max))), n a multiple of 16.
  void (*log_softmax)(float* x, int n);
};

const Kernels* kernels_scalar();
#if defined(__x86_64__) || defined(_M_X64)
const Kernels* kernels_avx2();
const Kernels* kernels_avxvnni();
const Kernels* kernels_avx512vnni();
#elif defined(__aarch64__)
const Kernels* kernels_neon();
const Kernels* kernels_neondot();
#endif

}  // namespace ghost
