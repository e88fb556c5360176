// Gradients of the selective scan, chunk by chunk from the last: states are recomputed from `starts`, then
// g_t = dy_t*C_t + a_{t+1}*g_{t+1} and q_t = a_t*g_t*h_{t-1}. One lane per channel; every lane takes every shuffle.
// x, dt, dy (B, L, E), A (E, N), Bm, Cm (B, L, N), D (E), starts as written forward, kept (B), sizes {L, E}.
// -> dx, ddt (B, L, E), dA (B, E, N), dB, dC (B, G, L, N) per simdgroup of channels, dD (B, E): partial sums.
const int steps = sizes[0];
const int channels = sizes[1];
const int chunks = (steps + GHOST_CHUNK - 1) / GHOST_CHUNK;
const int groups = (channels + 31) / 32;
const int e = group * 32 + lane;
const bool live = e < channels;
const size_t own = (size_t)row * channels + e;
const size_t tokens = (size_t)row * steps;
const size_t partials = ((size_t)row * groups + group) * steps;
const int row_kept = kept[row] < steps ? kept[row] : steps;
const float skip = live ? D[e] : 0.0f;
float carry[GHOST_STATES_MAX];
float rate_gradient[GHOST_STATES_MAX];
float skip_gradient = 0.0f;
GHOST_UNROLL
for (int n = 0; n < STATES; ++n) {
  carry[n] = 0.0f;
  rate_gradient[n] = 0.0f;
}
for (int chunk = chunks - 1; chunk >= 0; --chunk) {
  const int first = chunk * GHOST_CHUNK;
  const size_t before = ((size_t)row * chunks + chunk) * STATES;
  float xs[GHOST_CHUNK], dts[GHOST_CHUNK], dys[GHOST_CHUNK], us[GHOST_CHUNK], dus[GHOST_CHUNK], ddts[GHOST_CHUNK];
  GHOST_UNROLL
  for (int i = 0; i < GHOST_CHUNK; ++i) {
    // Steps that are masked or past the end are made to leave the state alone: dt = 0 is a = 1 and b = 0.
    const bool moves = live && first + i < row_kept;
    const size_t at = (tokens + first + i) * channels + e;
    xs[i] = moves ? x[at] : 0.0f;
    dts[i] = moves ? dt[at] : 0.0f;
    dys[i] = moves ? dy[at] : 0.0f;
    us[i] = dts[i] * xs[i];
    dus[i] = 0.0f;
    ddts[i] = 0.0f;
    skip_gradient = skip_gradient + dys[i] * xs[i];
  }
  for (int n = 0; n < STATES; ++n) {
    const float rate = live ? A[(size_t)e * STATES + n] : 0.0f;
    float decay[GHOST_CHUNK], b[GHOST_CHUNK];
    float h[GHOST_CHUNK + 1];
    float sums[GHOST_SUMS];
    h[0] = live ? starts[(before + n) * channels + e] : 0.0f;
    GHOST_UNROLL
    for (int i = 0; i < GHOST_CHUNK; ++i) {
      b[i] = first + i < row_kept ? Bm[(tokens + first + i) * STATES + n] : 0.0f;
      decay[i] = ghost_exp(dts[i] * rate);
      h[i + 1] = decay[i] * h[i] + us[i] * b[i];
    }
    float p = carry[n];
    float total = rate_gradient[n];
    GHOST_UNROLL
    for (int i = GHOST_CHUNK - 1; i >= 0; --i) {
      const float c = first + i < row_kept ? Cm[(tokens + first + i) * STATES + n] : 0.0f;
      const float g = dys[i] * c + p;
      p = decay[i] * g;
      const float q = p * h[i];
      dus[i] = dus[i] + g * b[i];
      ddts[i] = ddts[i] + q * rate;
      total = total + q * dts[i];
      sums[i] = g * us[i];
      sums[GHOST_CHUNK + i] = h[i + 1] * dys[i];
    }
    carry[n] = p;
    rate_gradient[n] = total;
    const float sum = ghost_lane_sums(sums, lane);
    const int t = first + lane / 2 % GHOST_CHUNK;
    if (lane % 2 == 0 && t < steps) {
      if (lane / 2 < GHOST_CHUNK) {
        dB[(partials + t) * STATES + n] = sum;
      } else {
        dC[(partials + t) * STATES + n] = sum;
      }
    }
  }
  GHOST_UNROLL
  for (int i = 0; i < GHOST_CHUNK; ++i) {
    if (live && first + i < steps) {
      const size_t at = (tokens + first + i) * channels + e;
      dx[at] = dus[i] * dts[i] + dys[i] * skip;
      ddt[at] = ddts[i] + dus[i] * xs[i];
    }
  }
}
if (live) {
  dD[own] = skip_gradient;
  GHOST_UNROLL
  for (int n = 0; n < STATES; ++n) dA[own * STATES + n] = rate_gradient[n];
}
