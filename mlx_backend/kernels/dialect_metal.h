// Metal Shading Language: what the bodies need and each language says in its own way.
#define GHOST_FUNCTION inline
#define GHOST_THREAD thread
#define GHOST_UNROLL _Pragma("clang loop unroll(full)")
// An array of a thread has exactly STATES elements, a compile-time constant.
#define GHOST_STATES_MAX STATES

GHOST_FUNCTION float ghost_as_float(unsigned int bits) { return as_type<float>(bits); }
GHOST_FUNCTION unsigned int ghost_as_uint(float value) { return as_type<unsigned int>(value); }

template <typename T>
GHOST_FUNCTION T ghost_shuffle_xor(T value, int mask) {
  return metal::simd_shuffle_xor(value, ushort(mask));
}

template <int COUNT, typename T>
GHOST_FUNCTION void ghost_exchange(GHOST_THREAD T* values, int mask) {
  GHOST_UNROLL
  for (int i = 0; i < COUNT; ++i) values[i] = ghost_shuffle_xor(values[i], mask);
}
