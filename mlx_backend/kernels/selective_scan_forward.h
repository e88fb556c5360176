// u = dt*x; h_n = exp(dt*A_n)*h_n + u*Bm_n; y = (sum over n of Cm_n*h_n, in order) + D*x. One lane per channel.
// x, dt (B, L, E), A (E, N), Bm, Cm (B, L, N), D (E), past (B, E, N), kept (B), sizes {L, E}; N is STATES.
// -> y (B, L, E), present (B, E, N), starts (B, ceil(L / GHOST_CHUNK), N, E): h before every chunk.
const int steps = sizes[0];
const int channels = sizes[1];
const int chunks = (steps + GHOST_CHUNK - 1) / GHOST_CHUNK;
const int e = group * 32 + lane;
if (e < channels) {
  const size_t own = (size_t)row * channels + e;
  const size_t tokens = (size_t)row * steps;
  const int row_kept = kept[row];
  const float skip = D[e];
  float rate[GHOST_STATES_MAX];
  float h[GHOST_STATES_MAX];
  GHOST_UNROLL
  for (int n = 0; n < STATES; ++n) {
    rate[n] = A[(size_t)e * STATES + n];
    h[n] = past[own * STATES + n];
  }
  for (int t = 0; t < steps; ++t) {
    if (t % GHOST_CHUNK == 0) {
      const size_t chunk = (size_t)row * chunks + t / GHOST_CHUNK;
      GHOST_UNROLL
      for (int n = 0; n < STATES; ++n) starts[(chunk * STATES + n) * channels + e] = h[n];
    }
    const size_t at = (tokens + t) * channels + e;
    const size_t token = (tokens + t) * STATES;
    float total = 0.0f;
    if (t < row_kept) {
      const float step_size = dt[at];
      const float u = step_size * x[at];
      GHOST_UNROLL
      for (int n = 0; n < STATES; ++n) {
        h[n] = ghost_exp(step_size * rate[n]) * h[n] + u * Bm[token + n];
        total = total + Cm[token + n] * h[n];
      }
      total = total + skip * x[at];
    }
    y[at] = total;
  }
  GHOST_UNROLL
  for (int n = 0; n < STATES; ++n) present[own * STATES + n] = h[n];
}
