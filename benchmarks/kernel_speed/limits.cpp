// What one core of this machine can do at most, the yardsticks of kernel_speed.py.
//
// Every loop has more independent accumulators than latency times units, keeps them in registers, and passes them
// through an empty asm statement, so that nothing is hoisted, merged or dropped.
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "measure.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace ghost_bench {
namespace {

constexpr int kSums = 12;
#define GHOST_KEEP(v) asm volatile("" : "+v"(v))
#define GHOST_EACH _Pragma("GCC unroll 12") for (int i = 0; i < kSums; ++i)

__attribute__((target("avx512f,avx512vnni"))) void vnni512(long n) {
  __m512i u = _mm512_set1_epi8(1), w = u, sums[kSums];
  GHOST_KEEP(u);
  GHOST_KEEP(w);
  GHOST_EACH sums[i] = _mm512_setzero_si512();
  for (long k = 0; k < n; ++k) {
    GHOST_EACH {
      sums[i] = _mm512_dpbusd_epi32(sums[i], u, w);
      GHOST_KEEP(sums[i]);
    }
  }
}

__attribute__((target("avxvnni"))) void vnni256(long n) {
  __m256i u = _mm256_set1_epi8(1), w = u, sums[kSums];
  GHOST_KEEP(u);
  GHOST_KEEP(w);
  GHOST_EACH sums[i] = _mm256_setzero_si256();
  for (long k = 0; k < n; ++k) {
    GHOST_EACH {
      sums[i] = _mm256_dpbusd_avx_epi32(sums[i], u, w);
      GHOST_KEEP(sums[i]);
    }
  }
}

// maddubs and the 16-bit addition that it needs.
__attribute__((target("avx2"))) void maddubs256(long n) {
  __m256i u = _mm256_set1_epi8(1), w = u, sums[kSums];
  GHOST_KEEP(w);
  GHOST_EACH sums[i] = _mm256_setzero_si256();
  for (long k = 0; k < n; ++k) {
    GHOST_EACH {
      GHOST_KEEP(u);
      sums[i] = _mm256_add_epi16(sums[i], _mm256_maddubs_epi16(u, w));
      GHOST_KEEP(sums[i]);
    }
  }
}

// Loads added to 16-bit sums: the least that the vector look-up table costs, 4 trits of 16 tokens each.
__attribute__((target("avx2"))) void lookup256(long n) {
  alignas(64) static const char table[32 * kSums] = {};
  __m256i sums[kSums];
  GHOST_EACH sums[i] = _mm256_setzero_si256();
  for (long k = 0; k < n; ++k) {
    GHOST_EACH asm volatile("vpaddw %1, %0, %0"
                            : "+x"(sums[i])
                            : "m"(*reinterpret_cast<const __m256i*>(table + 32 * i)));
  }
}

__attribute__((target("avx512f"))) void fma512(long n) {
  __m512 u = _mm512_set1_ps(1.0f), w = _mm512_set1_ps(1e-9f), sums[kSums];
  GHOST_KEEP(u);
  GHOST_KEEP(w);
  GHOST_EACH sums[i] = _mm512_setzero_ps();
  for (long k = 0; k < n; ++k) {
    GHOST_EACH {
      sums[i] = _mm512_fmadd_ps(u, w, sums[i]);
      GHOST_KEEP(sums[i]);
    }
  }
}

// As many multiplications as additions, none fused: the most that canonical arithmetic can do.
__attribute__((target("avx512f"))) void muladd512(long n) {
  __m512 u = _mm512_set1_ps(1.0f), sums[kSums], products[kSums];
  GHOST_KEEP(u);
  GHOST_EACH sums[i] = products[i] = _mm512_set1_ps(1.0f);
  for (long k = 0; k < n; ++k) {
    GHOST_EACH {
      sums[i] = _mm512_add_ps(sums[i], u);
      GHOST_KEEP(sums[i]);
      products[i] = _mm512_mul_ps(products[i], u);
      GHOST_KEEP(products[i]);
    }
  }
}

// Reads `bytes` (a multiple of 1024) from start to end, n times.
__attribute__((target("avx2"))) void read256(const char* memory, size_t bytes, long n) {
  __m256i sums[8] = {};
  for (long k = 0; k < n; ++k) {
    for (size_t at = 0; at < bytes; at += 256) {
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        sums[i] = _mm256_xor_si256(sums[i], _mm256_load_si256(reinterpret_cast<const __m256i*>(memory + at) + i));
        GHOST_KEEP(sums[i]);
      }
    }
  }
}

__attribute__((target("avx512f"))) void read512(const char* memory, size_t bytes, long n) {
  __m512i sums[8] = {};
  for (long k = 0; k < n; ++k) {
    for (size_t at = 0; at < bytes; at += 512) {
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        sums[i] = _mm512_xor_si512(sums[i], _mm512_load_si512(memory + at + 64 * i));
        GHOST_KEEP(sums[i]);
      }
    }
  }
}

struct Loop {
  const char* name;
  const char* level;     // the level whose CPUs can run it
  double per_iteration;  // multiply-accumulates or float operations
  void (*run)(long iterations);
};

constexpr Loop kLoops[] = {
    {"vnni512", "avx512vnni", kSums * 64.0, vnni512}, {"vnni256", "avxvnni", kSums * 32.0, vnni256},
    {"maddubs256", "avx2", kSums * 32.0, maddubs256}, {"lookup256", "avx2", kSums * 64.0, lookup256},
    {"fma512", "avx512vnni", kSums * 32.0, fma512},   {"muladd512", "avx512vnni", kSums * 32.0, muladd512},
};
constexpr long kBatch = 100000;  // iterations between two looks at the clock

}  // namespace
}  // namespace ghost_bench

// Multiply-accumulates or float operations per second of a loop above; -1 where this CPU cannot run it.
extern "C" double ghost_limit(const char* name, double seconds) {
  using namespace ghost_bench;
  for (const Loop& loop : kLoops) {
    if (std::strcmp(loop.name, name) != 0 || kernels_at(loop.level) == nullptr) continue;
    return kBatch * loop.per_iteration / seconds_per_call(seconds, [&] { loop.run(kBatch); });
  }
  return -1;
}

// Bytes per second that one core reads from `bytes` of memory, over and over; -1 without AVX2 or memory.
extern "C" double ghost_read_rate(double bytes, double seconds) {
  using namespace ghost_bench;
  const size_t size = static_cast<size_t>(bytes) / 1024 * 1024;
  char* memory = static_cast<char*>(std::aligned_alloc(4096, (size + 4095) / 4096 * 4096));
  if (memory == nullptr || kernels_at("avx2") == nullptr) return -1;
  std::memset(memory, 1, size);
  const bool wide = kernels_at("avx512vnni") != nullptr;
  const long times = size < (1 << 22) ? static_cast<long>((1 << 22) / size) : 1;
  const double taken = seconds_per_call(seconds, [&] { (wide ? read512 : read256)(memory, size, times); });
  std::free(memory);
  return static_cast<double>(size) * static_cast<double>(times) / taken;
}
#else
extern "C" double ghost_limit(const char*, double) { return -1; }
extern "C" double ghost_read_rate(double, double) { return -1; }
#endif
