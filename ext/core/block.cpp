// The two branches that every layer has: Mamba (arXiv:2312.00752) and the gated feed-forward network.
#include "pass.h"

namespace ghost {
namespace {

// Rows [0, count) of the columns [columns.begin, columns.end).
void copy_columns(float* to, const float* from, int stride, int count, Share columns) {
  const size_t size = static_cast<size_t>(columns.end - columns.begin) * sizeof(float);
  for (int r = 0; r < count && size > 0; ++r) {
    const size_t at = static_cast<size_t>(r) * stride + columns.begin;
    std::memcpy(to + at, from + at, size);
  }
}

}  // namespace

// u = h + out_proj(y * silu(z)) for the kept tokens.
void Member::mixer(const MixerWeights& w, const Vector& norm, int layer, int n) {
  const int taps = config_.d_conv - 1, d_stride = work_.d_stride, e_stride = work_.e_stride;
  const StateLayout::Layer& at = pass_.state.layout().layers[static_cast<size_t>(layer)];
  TokenRows& r = rows(n);
  const Share tokens = row_share(n);

  for (int t = tokens.begin; t < tokens.end; ++t) {
    const float* h = work_.h.data() + static_cast<size_t>(own_.kept[t]) * d_stride;
    kernels_.rms_norm(h, norm.data(), config_.d_model, r.row_at(t));
    quantise(&r, t, r.row_at(t), config_.d_model, kWholeRow);
  }
  rows_done(n);

  float* window = work_.window.data();
  const Share blocks = own_share(w.in_x.blocks());
  const Share channels = linear(w.in_x, r, n, window + static_cast<size_t>(taps) * e_stride, e_stride);
  linear(w.in_z, r, n, work_.z.data(), e_stride);
  copy_columns(window, pass_.state.at(at.conv), e_stride, taps, channels);
  const ConvArguments conv{w.conv_weight.data(), w.conv_bias.data(), window, work_.xc.data(),
                           config_.d_conv,       n,                  e_stride};
  kernels_.conv_silu(&conv, blocks.begin, blocks.end);
  copy_columns(pass_.state.at(at.conv), window + static_cast<size_t>(n) * e_stride, e_stride, taps, channels);
  barrier();

  for (int t = tokens.begin; t < tokens.end; ++t) {
    quantise(&r, t, work_.xc.data() + static_cast<size_t>(t) * e_stride, config_.d_inner(), kWholeRow);
  }
  if (tokens.begin < tokens.end) {
    const Activations x = activations(r, tokens.begin, tokens.end - tokens.begin);
    kernels_.linear(w.x_bc.view(), &x, r.bc_at(tokens.begin), r.bc_stride, 0, w.x_bc.blocks());
    kernels_.linear(w.x_r.view(), &x, r.row_at(tokens.begin), r.width, 0, w.x_r.blocks());
  }
  for (int t = tokens.begin; t < tokens.end; ++t) quantise(&r, t, r.row_at(t), config_.dt_rank, kWholeRow);
  rows_done(n);

  linear(w.dt, r, n, work_.dt.data(), e_stride);
  const ScanArguments scan{work_.dt.data(), w.dt_bias.data(), work_.xc.data(), work_.z.data(),
                           r.bc.data(),     w.A.data(),       w.D.data(),      pass_.state.at(at.ssm),
                           work_.y.data(),  config_.d_state,  n,               e_stride,
                           r.bc_stride};
  kernels_.scan(&scan, blocks.begin, blocks.end);
  barrier();

  quantise_rows(work_.y.data(), e_stride, config_.d_inner(), n, kWholeRow);
  const Share columns = linear(w.out, r, n, work_.out.data(), d_stride);
  for (int t = 0; t < n; ++t) {
    const float* h = work_.h.data() + static_cast<size_t>(own_.kept[t]) * d_stride;
    const size_t row = static_cast<size_t>(t) * d_stride;
    for (int i = columns.begin; i < columns.end; ++i) work_.u[row + i] = h[i] + work_.out[row + i];
  }
  barrier();
}

// u += down(silu(gate(x)) * up(x))
void Member::ffn(const LayerWeights& w, int n) {
  const int group = config_.codebook_group, d_stride = work_.d_stride, f_stride = work_.f_stride;
  norm_rows(work_.u.data(), w.norm_ffn, n, group);
  const Share hidden = linear(w.gate, rows(n), n, work_.gate.data(), f_stride);
  linear(w.up, rows(n), n, work_.up.data(), f_stride);
  for (int t = 0; t < n; ++t) {
    float* gate = work_.gate.data() + static_cast<size_t>(t) * f_stride + hidden.begin;
    const float* up = work_.up.data() + static_cast<size_t>(t) * f_stride + hidden.begin;
    kernels_.swiglu(gate, up, gate, hidden.end - hidden.begin);
  }
  barrier();

  quantise_rows(work_.gate.data(), f_stride, config_.d_ff, n, group);
  const Share columns = linear(w.down, rows(n), n, work_.out.data(), d_stride);
  for (int t = 0; t < n; ++t) {
    const size_t row = static_cast<size_t>(t) * d_stride;
    for (int i = columns.begin; i < columns.end; ++i) work_.u[row + i] = work_.u[row + i] + work_.out[row + i];
  }
}

// u, mixed with h by the Mixture-of-Depths gate, back into the residual stream.
void Member::leave(const LayerWeights& w, int n) {
  const Share blocks = own_share(work_.d_stride / kBlock);
  const Share columns{blocks.begin * kBlock, blocks.end * kBlock};
  for (int t = 0; t < n; ++t) {
    float* h = work_.h.data() + static_cast<size_t>(own_.kept[t]) * work_.d_stride;
    const float* u = work_.u.data() + static_cast<size_t>(t) * work_.d_stride;
    for (int i = columns.begin; i < columns.end; ++i) h[i] = w.mod ? h[i] + own_.score[t] * (u[i] - h[i]) : u[i];
  }
  barrier();
}

}  // namespace ghost
