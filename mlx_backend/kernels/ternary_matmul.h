// y = (float(sum over k of w_ok*q_mk) * scale_o) * s_m, the sum exact in int32. A simdgroup takes one output o (its
// index `group`) and GHOST_SUMS rows of q; its lanes share the words of 16 trits of the weight row.
// q (M, K) int8, packed (n, ceil(K / 16)) words of 2-bit codes trit + 1, lowest bits first, scale (n), s (M),
// sizes {M, K, n} -> y (M, n)
const int rows = sizes[0];
const int inner = sizes[1];
const int outputs = sizes[2];
const int words = (inner + 15) / 16;
const int first_row = row * GHOST_SUMS;
int sums[GHOST_SUMS];
GHOST_UNROLL
for (int i = 0; i < GHOST_SUMS; ++i) sums[i] = 0;
for (int word = lane; word < words; word += 32) {
  const unsigned int codes = packed[(size_t)group * words + word];
  const int first = word * 16;
  const int count = inner - first < 16 ? inner - first : 16;
  for (int k = 0; k < count; ++k) {
    const int trit = (int)((codes >> (2 * k)) & 3u) - 1;
    GHOST_UNROLL
    for (int i = 0; i < GHOST_SUMS; ++i) {
      const int m = first_row + i;
      sums[i] = sums[i] + (m < rows ? trit * (int)q[(size_t)m * inner + first + k] : 0);
    }
  }
}
const int total = ghost_lane_sums(sums, lane);
const int m = first_row + lane / 2;
if (lane % 2 == 0 && m < rows) y[(size_t)m * outputs + group] = ((float)total * scale[group]) * s[m];
