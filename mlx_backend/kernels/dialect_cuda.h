// CUDA C++: what the bodies need and each language says in its own way.
#define GHOST_FUNCTION __device__ __forceinline__
#define GHOST_THREAD
#define GHOST_UNROLL _Pragma("unroll")
// An array of a thread has exactly STATES elements, a compile-time constant.
#define GHOST_STATES_MAX STATES

GHOST_FUNCTION float ghost_as_float(unsigned int bits) { return __uint_as_float(bits); }
GHOST_FUNCTION unsigned int ghost_as_uint(float value) { return __float_as_uint(value); }

template <int COUNT, typename T>
GHOST_FUNCTION void ghost_exchange(GHOST_THREAD T* values, int mask) {
  GHOST_UNROLL
  for (int i = 0; i < COUNT; ++i) values[i] = __shfl_xor_sync(0xffffffffu, values[i], mask);
}
