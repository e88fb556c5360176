// What the tables of tables-inl.h are made of and how they are looked up with AVX2.
#pragma once

#include "avx2_tiles-inl.h"

namespace ghost {
namespace {

#define GHOST_INLINE static inline __attribute__((always_inline))

constexpr int kTableTokens = 16;
// Filling the tables of a k-block costs as much as looking up about 80 rows, and a tile of products as much as 1.4
// look-ups of 16 tokens. Measured (Zen 5, 256 rows and more): 200 to 230 GMAC/s for 16 tokens where the tiles do 160 to
// 170, 185 to 200 for 14, no gain for 12; with magnitudes for every 128 columns 130 against 150, so those use tiles.
constexpr int kFewestBlocks = 12, kFewestTokens = 13;
constexpr int kGroupRows = kStep;
constexpr int kStripBlocks = 32;  // their sums and the tables (a third is never touched) fit into 32 kB

// What the codes of one k-block can add up to, by byte of the code line and its value (at most 2 + 8 + 32 + 128).
struct Tables {
  alignas(32) int16_t sums[4][171][kTableTokens];
};

typedef int8_t Column __attribute__((vector_size(kTableTokens)));
typedef int16_t Wide __attribute__((vector_size(2 * kTableTokens)));

GHOST_INLINE Wide widen(Column x) { return (Wide)_mm256_cvtepi8_epi16((__m128i)x); }
GHOST_INLINE void put(int16_t* entry, Wide sum) { __builtin_memcpy(entry, &sum, sizeof sum); }

// columns[k]: the activations of column k for all tokens, from rows of 16 columns. Four perfect shuffles transpose.
GHOST_INLINE void transpose(const Column (&rows)[kTableTokens], Column (&columns)[kBlock]) {
  Column shuffled[kBlock];
  for (int i = 0; i < kBlock; ++i) columns[i] = rows[i];
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < kBlock / 2; ++i) {
      shuffled[2 * i] = (Column)_mm_unpacklo_epi8((__m128i)columns[i], (__m128i)columns[i + kBlock / 2]);
      shuffled[2 * i + 1] = (Column)_mm_unpackhi_epi8((__m128i)columns[i], (__m128i)columns[i + kBlock / 2]);
    }
    for (int i = 0; i < kBlock; ++i) columns[i] = shuffled[i];
  }
}

// Adds what the 16 rows of a line of codes look up.
GHOST_INLINE void look_up(const Tables& tables, const uint8_t* codes, int16_t (*sums)[kTableTokens]) {
  const char* table = reinterpret_cast<const char*>(tables.sums);
  constexpr int kEntry = sizeof tables.sums[0][0], kTable = sizeof tables.sums[0];
  for (int r = 0; r < kBlock; r += 2) {
    uint64_t word;  // of two rows
    __builtin_memcpy(&word, codes + 4 * r, sizeof word);
    for (int i = 0; i < 2; ++i, word >>= 32) {
      __m256i sum = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums[r + i]));
      for (int b = 0; b < 4; ++b) {
        const char* entry = table + b * kTable + (word >> (8 * b) & 0xFF) * kEntry;
        sum = _mm256_add_epi16(sum, _mm256_load_si256(reinterpret_cast<const __m256i*>(entry)));
      }
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums[r + i]), sum);
    }
  }
}

// products[i]: of eight rows and token t + i, float(sum + total) * magnitude; totals may be null.
GHOST_INLINE void multiply_group(const int16_t (*sums)[kTableTokens], const int32_t (*totals)[kTableTokens], int t,
                                 const float* magnitude, V (&products)[kGroupRows]) {
  __m256 rows[kGroupRows], shuffled[kGroupRows];
  for (int i = 0; i < kGroupRows; ++i) {
    __m256i sum = _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(sums[i] + t)));
    if (totals != nullptr) {
      sum = _mm256_add_epi32(sum, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(totals[i] + t)));
    }
    rows[i] = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(magnitude[i]));
  }
  // Rows i and i + 4 side by side, then two perfect shuffles of each half's four rows.
  for (int i = 0; i < 4; ++i) {
    shuffled[i] = _mm256_permute2f128_ps(rows[i], rows[i + 4], 0x20);
    shuffled[i + 4] = _mm256_permute2f128_ps(rows[i], rows[i + 4], 0x31);
  }
  for (int round = 0; round < 2; ++round) {
    for (int half = 0; half < kGroupRows; half += 4) {
      for (int i = 0; i < 2; ++i) {
        rows[half + 2 * i] = _mm256_unpacklo_ps(shuffled[half + i], shuffled[half + i + 2]);
        rows[half + 2 * i + 1] = _mm256_unpackhi_ps(shuffled[half + i], shuffled[half + i + 2]);
      }
    }
    for (int i = 0; i < kGroupRows; ++i) shuffled[i] = rows[i];
  }
  for (int i = 0; i < kGroupRows; ++i) products[i] = (V)shuffled[i];
}

#undef GHOST_INLINE

}  // namespace
}  // namespace ghost

#include "tables-inl.h"
