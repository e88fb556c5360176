// Functions of the bodies, in the common subset of Metal Shading Language, CUDA C++ and C++17. They take values and
// pointers into a thread's own memory only: where an array lies (device, constant) is for the caller to know.

// Steps between two saved states: the backward kernel recomputes, and keeps in registers, so many.
#define GHOST_CHUNK 8
// Values that ghost_lane_sums adds at once.
#define GHOST_SUMS 16

// e^x = 2^n e^r with n = rint(x / ln 2), |r| <= ln(2) / 2, and e^r = 1 + (r + r^2 P(r)): the canonical exp, at most
// 2 ULP and the same bits as ghost_ref.numerics.exp where products and sums are not contracted (CUDA and Metal may
// contract: one ULP more). Decimal constants, exact to the bit, because hexadecimal ones need C++17.
GHOST_FUNCTION float ghost_exp(float x) {
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  const float magic = 12583166.0f;  // 1.5 * 2^23 rounds to an integer; 254 is twice the exponent bias
  const float shifted = x * 1.44269502f + magic;
  const float n = shifted - magic;
  float r = x - n * 0.693145752f;  // exact: the high part of ln 2 has 15 bits
  r = r - n * 1.42860677e-06f;

  float y = r * 0.00138389028f;
  y = (y + 0.00836919248f) * r;
  y = (y + 0.0416681021f) * r;
  y = (y + 0.166665167f) * r;
  y = (y + 0.499999940f) * (r * r);
  y = (y + r) + 1.0f;

  // The low bits of `shifted` hold n + 254. Two factors, both normal: underflow is rounded once, in the last product.
  const unsigned int bits = ghost_as_uint(shifted);
  const unsigned int first = bits >> 1;
  const unsigned int second = bits - first;
  return (y * ghost_as_float(first << 23)) * ghost_as_float(second << 23);
}

// One stage: lanes that differ in the bit `mask` share 2 * COUNT values, each keeps the sums of COUNT of them.
template <int COUNT, typename T>
GHOST_FUNCTION void ghost_fold_lanes(GHOST_THREAD T* values, int lane, int mask) {
  const bool upper = (lane & mask) != 0;
  T given[COUNT];
  GHOST_UNROLL
  for (int i = 0; i < COUNT; ++i) {
    given[i] = upper ? values[i] : values[COUNT + i];
    values[i] = upper ? values[COUNT + i] : values[i];
  }
  ghost_exchange<COUNT>(given, mask);
  GHOST_UNROLL
  for (int i = 0; i < COUNT; ++i) values[i] = values[i] + given[i];
}

// Sums over the 32 lanes of GHOST_SUMS values at once; lane l returns the sum of values[l / 2]. Every lane must call.
template <typename T>
GHOST_FUNCTION T ghost_lane_sums(GHOST_THREAD T* values, int lane) {
  ghost_fold_lanes<8>(values, lane, 16);
  ghost_fold_lanes<4>(values, lane, 8);
  ghost_fold_lanes<2>(values, lane, 4);
  ghost_fold_lanes<1>(values, lane, 2);
  T other[1] = {values[0]};
  ghost_exchange<1>(other, 1);
  return values[0] + other[0];
}
