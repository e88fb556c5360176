// Every loop has more independent accumulators than latency times units, keeps them in registers, and passes them
// through an empty asm statement, so that nothing is hoisted, merged or dropped.
#include "peaks.h"

#include <cstdlib>
#include <cstring>

#include "dispatch.h"
#include "stopwatch.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifdef __clang__
#define GHOST_UNROLL _Pragma("clang loop unroll(full)")
#else
#define GHOST_UNROLL _Pragma("GCC unroll 12")
#endif

namespace ghost {
namespace {

bool runs_here(const char* level) {
  Level levels[kMaxLevels];
  for (int i = 0, count = known_levels(levels); i < count; ++i) {
    if (std::strcmp(levels[i].name, level) == 0) return levels[i].missing == nullptr;
  }
  return false;
}

// A loop: `per_iteration` multiply-accumulates or float operations.
struct Loop {
  const char* name;
  const char* level;  // the level whose CPUs can run it
  double per_iteration;
  void (*run)(long iterations);
};

constexpr int kSums = 12;
#define GHOST_EACH GHOST_UNROLL for (int i = 0; i < kSums; ++i)
constexpr int kFew = 7;  // of two kinds, and an operand, in 16 registers
#define GHOST_FEW GHOST_UNROLL for (int i = 0; i < kFew; ++i)

#if defined(__x86_64__)

#define GHOST_KEEP(v) asm volatile("" : "+v"(v))

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

__attribute__((target("avx2"))) void muladd256(long n) {
  __m256 u = _mm256_set1_ps(1.0f), sums[kFew], products[kFew];
  GHOST_KEEP(u);
  GHOST_FEW sums[i] = products[i] = _mm256_set1_ps(1.0f);
  for (long k = 0; k < n; ++k) {
    GHOST_FEW {
      sums[i] = _mm256_add_ps(sums[i], u);
      GHOST_KEEP(sums[i]);
      products[i] = _mm256_mul_ps(products[i], u);
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

constexpr Loop kLoops[] = {
    {"vnni512", "avx512vnni", kSums * 64.0, vnni512}, {"vnni256", "avxvnni", kSums * 32.0, vnni256},
    {"maddubs256", "avx2", kSums * 32.0, maddubs256}, {"lookup256", "avx2", kSums * 64.0, lookup256},
    {"fma512", "avx512vnni", kSums * 32.0, fma512},   {"muladd512", "avx512vnni", kSums * 32.0, muladd512},
    {"muladd256", "avx2", kFew * 16.0, muladd256},
};

#elif defined(__aarch64__)

#define GHOST_KEEP(v) asm volatile("" : "+w"(v))

#ifdef __clang__
__attribute__((target("dotprod")))
#else
__attribute__((target("arch=armv8.2-a+dotprod")))
#endif
void sdot128(long n) {
  int8x16_t u = vdupq_n_s8(1), w = u;
  int32x4_t sums[kSums];
  GHOST_KEEP(u);
  GHOST_KEEP(w);
  GHOST_EACH sums[i] = vdupq_n_s32(0);
  for (long k = 0; k < n; ++k) {
    GHOST_EACH {
      sums[i] = vdotq_s32(sums[i], u, w);
      GHOST_KEEP(sums[i]);
    }
  }
}

// The widening multiply-accumulate of plain NEON, without the additions that empty its 16-bit sums now and then.
void smlal128(long n) {
  int8x8_t u = vdup_n_s8(1), w = u;
  int16x8_t sums[kSums];
  GHOST_KEEP(u);
  GHOST_KEEP(w);
  GHOST_EACH sums[i] = vdupq_n_s16(0);
  for (long k = 0; k < n; ++k) {
    GHOST_EACH {
      sums[i] = vmlal_s8(sums[i], u, w);
      GHOST_KEEP(sums[i]);
    }
  }
}

void muladd128(long n) {
  float32x4_t u = vdupq_n_f32(1.0f), sums[kSums], products[kSums];
  GHOST_KEEP(u);
  GHOST_EACH sums[i] = products[i] = vdupq_n_f32(1.0f);
  for (long k = 0; k < n; ++k) {
    GHOST_EACH {
      sums[i] = vaddq_f32(sums[i], u);
      GHOST_KEEP(sums[i]);
      products[i] = vmulq_f32(products[i], u);
      GHOST_KEEP(products[i]);
    }
  }
}

constexpr Loop kLoops[] = {
    {"sdot128", "neondot", kSums * 16.0, sdot128},
    {"smlal128", "neon", kSums * 8.0, smlal128},
    {"muladd128", "neon", kSums * 8.0, muladd128},
};

#else

constexpr Loop kLoops[] = {{"", "", 0, nullptr}};

#endif

constexpr long kBatch = 20000;  // iterations between two looks at the clock

constexpr Peaks kPeaks[] = {
    {"avx512vnni", "vnni512", "muladd512", "vpdpbusd, 512 bits"},
    {"avxvnni", "vnni256", "muladd256", "vpdpbusd, 256 bits"},
    {"avx2", "maddubs256", "muladd256", "vpmaddubsw and vpaddw, 256 bits"},
    {"neondot", "sdot128", "muladd128", "sdot, 128 bits"},
    {"neon", "smlal128", "muladd128", "smlal, 128 bits"},
};

}  // namespace

double limit(const char* name, double seconds) {
  for (const Loop& loop : kLoops) {
    if (std::strcmp(loop.name, name) != 0 || !runs_here(loop.level)) continue;
    return kBatch * loop.per_iteration / seconds_per_call(seconds, [&] { loop.run(kBatch); });
  }
  return -1;
}

const Peaks* peaks_of(const char* level) {
  for (const Peaks& peaks : kPeaks) {
    if (std::strcmp(peaks.level, level) == 0 && runs_here(level)) return &peaks;
  }
  return nullptr;
}

double read_rate(double bytes, double seconds) {
#if defined(__x86_64__)
  if (!runs_here("avx2")) return -1;
  const size_t size = static_cast<size_t>(bytes) / 1024 * 1024;
  char* memory = static_cast<char*>(std::aligned_alloc(4096, (size + 4095) / 4096 * 4096));
  if (memory == nullptr) return -1;
  std::memset(memory, 1, size);
  const bool wide = runs_here("avx512vnni");
  const long times = size < (1 << 22) ? static_cast<long>((1 << 22) / size) : 1;
  const double taken = seconds_per_call(seconds, [&] { (wide ? read512 : read256)(memory, size, times); });
  std::free(memory);
  return static_cast<double>(size) * static_cast<double>(times) / taken;
#else
  static_cast<void>(bytes);
  static_cast<void>(seconds);
  return -1;
#endif
}

}  // namespace ghost
