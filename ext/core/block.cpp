// The two branches that most layers have: Mamba (arXiv:2312.00752) and the gated feed-forward network.
#include "pass.h"

#include <cstring>

namespace ghost {

void Member::add_to_u(int n, Share blocks) {
  for (int t = 0; t < n; ++t) {
    float* u = work_.u.data() + static_cast<size_t>(t) * work_.d_stride;
    const float* out = work_.out.data() + static_cast<size_t>(t) * work_.d_stride;
    kernels_.add(u + blocks.begin * kBlock, out + blocks.begin * kBlock, u + blocks.begin * kBlock,
                 (blocks.end - blocks.begin) * kBlock);
  }
}

// u = h + out_proj(y * silu(z)) for the kept tokens.
void Member::mixer(const MixerWeights& w, const Vector& norm, int layer, int n) {
  TokenRows& r = rows(n);
  const Share tokens = row_share(n), blocks = own_share(w.out.blocks());
  for (int t = tokens.begin; t < tokens.end; ++t) {
    kernels_.rms_norm(h_of_kept(t), norm.data(), config_.d_model, r.row_at(t));
    quantise(&r.outer, t, r.row_at(t), config_.d_model, kWholeRow);
  }
  rows_done(n);
  convolve(w, layer, n);
  barrier();
  project(w, n);
  scan(w, layer, n);
  barrier();
  quantise_rows(&r.inner, work_.y.data(), work_.e_stride, config_.d_inner(), n, kWholeRow);
  linear(w.out, r.inner, n, blocks, work_.out.data(), work_.d_stride);
  for (int t = 0; t < n; ++t) {
    const size_t own = static_cast<size_t>(t) * work_.d_stride + static_cast<size_t>(blocks.begin) * kBlock;
    kernels_.add(h_of_kept(t) + blocks.begin * kBlock, work_.out.data() + own, work_.u.data() + own,
                 (blocks.end - blocks.begin) * kBlock);
  }
}

// xc = silu(conv(the first half of in_proj)) in this member's channels.
void Member::convolve(const MixerWeights& w, int layer, int n) {
  const QuantisedRows& x = rows(n).outer;
  tiles(own_share(w.in_x.blocks()), n, [&](Share part) {
    linear(w.in_x, x, n, part, work_.xc.data(), work_.e_stride);
    for (int s = 0; s < pass_.stream_count; ++s) {
      const Share kept = kept_of(s);
      if (kept.begin == kept.end) continue;
      float* rows = work_.xc.data() + static_cast<size_t>(kept.begin) * work_.e_stride;
      float* past = pass_.streams[s].state->at(state_of(layer).conv);
      const ConvArguments arguments{w.conv_weight.data(), w.conv_bias.data(), past, rows, rows,
                                    config_.d_conv, kept.end - kept.begin, work_.e_stride};
      kernels_.conv_silu(&arguments, part.begin, part.end);
    }
  });
}

// [r | B | C] = x_proj xc, and r quantised.
void Member::project(const MixerWeights& w, int n) {
  TokenRows& r = rows(n);
  const Share tokens = row_share(n);
  for (int t = tokens.begin; t < tokens.end; ++t) {
    quantise(&r.inner, t, work_.xc.data() + static_cast<size_t>(t) * work_.e_stride, config_.d_inner(), kWholeRow);
  }
  if (tokens.begin < tokens.end) {
    const Activations x = activations(r.inner, tokens.begin, tokens.end - tokens.begin);
    kernels_.linear(w.x.view(), &x, r.projected_at(tokens.begin), r.p_stride, 0, w.x.blocks());
  }
  for (int t = tokens.begin; t < tokens.end; ++t) quantise(&r.inner, t, r.projected_at(t), config_.dt_rank, kWholeRow);
  rows_done(n);
}

// y = (scan of xc) * silu(the second half of in_proj) in this member's channels.
void Member::scan(const MixerWeights& w, int layer, int n) {
  TokenRows& r = rows(n);
  tiles(own_share(w.in_z.blocks()), n, [&](Share part) {
    linear(w.in_z, r.outer, n, part, work_.z.data(), work_.e_stride);
    linear(w.dt, r.inner, n, part, work_.dt.data(), work_.e_stride);
    for (int s = 0; s < pass_.stream_count; ++s) {
      const Share kept = kept_of(s);
      if (kept.begin == kept.end) continue;
      const size_t row = static_cast<size_t>(kept.begin) * work_.e_stride;
      const ScanArguments arguments{work_.dt.data() + row, w.dt_bias.data(), work_.xc.data() + row, work_.z.data() + row,
                                    r.projected_at(kept.begin) + config_.dt_rank, w.A.data(), w.D.data(),
                                    pass_.streams[s].state->at(state_of(layer).ssm), work_.y.data() + row,
                                    config_.d_state, kept.end - kept.begin, work_.e_stride, r.p_stride};
      kernels_.scan(&arguments, part.begin, part.end);
    }
  });
}

// u += down(silu(gate(x)) * up(x))
void Member::ffn(const LayerWeights& w, int n) {
  const int group = config_.codebook_group, f_stride = work_.f_stride, stride = up_stride(n);
  QuantisedRows& x = rows(n).outer;
  barrier();
  norm_rows(work_.u.data(), w.norm_ffn, n, group);
  tiles(own_share(w.gate.blocks()), n, [&](Share part) {
    linear(w.gate, x, n, part, work_.gate.data(), f_stride);
    linear(w.up, x, n, part, own_.up.data(), stride);
    for (int t = 0; t < n; ++t) {
      float* gate = work_.gate.data() + static_cast<size_t>(t) * f_stride + part.begin * kBlock;
      const float* up = own_.up.data() + static_cast<size_t>(t) * stride + part.begin * kBlock;
      kernels_.swiglu(gate, up, gate, (part.end - part.begin) * kBlock);
    }
  });
  barrier();
  quantise_rows(&x, work_.gate.data(), f_stride, config_.d_ff, n, group);
  const Share blocks = own_share(w.down.blocks());
  linear(w.down, x, n, blocks, work_.out.data(), work_.d_stride);
  add_to_u(n, blocks);
}

// u, mixed with h by the Mixture-of-Depths gate, back into the residual stream. Every member reads and writes the
// columns that the last branch gave it.
void Member::leave(const LayerWeights& w, int n) {
  const Share blocks = own_share(blocks_of(config_.d_model));
  const int begin = blocks.begin * kBlock, size = (blocks.end - blocks.begin) * kBlock;
  for (int t = 0; t < n; ++t) {
    float* h = h_of_kept(t) + begin;
    const float* u = work_.u.data() + static_cast<size_t>(t) * work_.d_stride + begin;
    if (w.mod) {
      kernels_.lerp(own_.score[t], u, h, size);
    } else {
      std::memcpy(h, u, static_cast<size_t>(size) * sizeof(float));
    }
  }
  barrier();
}

}  // namespace ghost
