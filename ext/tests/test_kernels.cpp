// Every level of this CPU against plain integer arithmetic and the scalar level: random odd shapes, extreme inputs,
// arrays that end where the memory ends, and a hostile floating-point environment. Built beside the judge
// (conformance/judge_native/Makefile), so that the same program runs natively and, cross-built, under an emulator.
//
//   test_kernels [SEED [ROUNDS]]     exit code 1: a level computed something else
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "dispatch.h"
#include "fp_control.h"
#include "guarded.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace {

using ghost::Activations;
using ghost::kBlock;
using ghost::Kernels;
using ghost_tests::Guarded;

int checks = 0, failures = 0;

void check(bool condition, const Kernels* level, const std::string& what) {
  ++checks;
  if (condition) return;
  if (++failures <= 20) std::printf("DIFFERENT at level %s: %s\n", level->name, what.c_str());
}

uint32_t bits(float x) {
  uint32_t word;
  std::memcpy(&word, &x, sizeof word);
  return word;
}

bool same(float a, float b) { return bits(a) == bits(b) || (std::isnan(a) && std::isnan(b)); }

bool same_all(const float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    if (!same(a[i], b[i])) return false;
  }
  return true;
}

std::mt19937_64 generator;

int uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

size_t blocks_of(int n) { return static_cast<size_t>((n + kBlock - 1) / kBlock); }

// How weights and activations are chosen: at random, or so that sums grow as large as they can.
enum class Fill { kRandom, kLargest, kSmallest, kOpposed, kCount };

int choose(Fill fill, int index, int low, int high) {
  switch (fill) {
    case Fill::kRandom: return uniform(low, high);
    case Fill::kLargest: return high;
    case Fill::kSmallest: return low;
    default: return index % 2 == 0 ? high : low;
  }
}

constexpr int kWhole = 1 << 20;  // a group that no row exceeds

struct Shape {
  int rows, columns, tokens, group;
};

std::string words(const char* kernel, const Shape& s, Fill weights, Fill activations) {
  return std::string(kernel) + " rows " + std::to_string(s.rows) + " columns " + std::to_string(s.columns) +
         " tokens " + std::to_string(s.tokens) + " group " + std::to_string(s.group) + " weights " +
         std::to_string(static_cast<int>(weights)) + " activations " + std::to_string(static_cast<int>(activations));
}

// Quantised rows of a shape, their sums and scales; one row may be that of a row that held NaN.
struct Rows {
  int stride, groups;
  Guarded<int8_t> q;
  Guarded<float> scale;
  Guarded<int32_t> sums;

  Rows(const Shape& s, Fill fill)
      : stride(static_cast<int>(blocks_of(s.columns)) * kBlock),
        groups((s.columns + s.group - 1) / s.group),
        q(static_cast<size_t>(s.tokens) * static_cast<size_t>(stride)),
        scale(static_cast<size_t>(s.tokens)),
        sums(static_cast<size_t>(s.tokens) * static_cast<size_t>(groups)) {
    for (int t = 0; t < s.tokens; ++t) {
      const bool broken = fill == Fill::kRandom && uniform(0, 40) == 0;
      scale[static_cast<size_t>(t)] = broken ? std::nanf("") : std::ldexp(1.0f + 0.1f * static_cast<float>(t), t - 9);
      for (int k = 0; k < s.columns && !broken; ++k) {
        const int value = choose(fill, k + t, -127, 127);
        q[static_cast<size_t>(t * stride + k)] = static_cast<int8_t>(value);
        sums[static_cast<size_t>(t * groups + k / s.group)] += value;
      }
    }
  }

  Activations view(const Shape& s) const {
    return {q.data(), scale.data(), sums.data(), s.tokens, stride, groups};
  }
};

// Runs linear(begin, end) at every level and compares with the truth; what lies beside the blocks must not change.
template <typename Run>
void compare(const std::vector<const Kernels*>& levels, const std::string& what, const std::vector<float>& truth,
             int tokens, size_t blocks, Run run) {
  const size_t width = blocks * kBlock, y_stride = width + kBlock;
  const size_t begin = blocks > 1 ? static_cast<size_t>(uniform(0, 1)) : 0, end = blocks;
  for (const Kernels* level : levels) {
    Guarded<float> y(static_cast<size_t>(tokens) * y_stride, 0x5A);
    const float untouched = y[0];
    run(level, y.data(), static_cast<int64_t>(y_stride), static_cast<int>(begin), static_cast<int>(end));
    bool equal = true;
    for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
      const float* row = y.data() + t * y_stride;
      for (size_t r = 0; r < y_stride; ++r) {
        const bool inside = r >= begin * kBlock && r < width;
        equal = equal && same(row[r], inside ? truth[t * width + r] : untouched);
      }
    }
    check(equal, level, what);
  }
}

// Codes and magnitudes as a level's kernels want them: strips of `together` blocks.
struct Strips {
  Guarded<uint8_t> codes;
  Guarded<float> magnitude;

  // code (padded rows, padded columns), size (padded rows, groups)
  Strips(const std::vector<int>& code, const std::vector<float>& size, size_t blocks, size_t k_blocks, size_t groups,
         size_t together)
      : codes(blocks * k_blocks * 64), magnitude(blocks * groups * kBlock) {
    size_t line = 0, at = 0;
    for (size_t first = 0; first < blocks; first += together) {
      const size_t last = std::min(first + together, blocks);
      for (size_t k = 0; k < k_blocks; ++k) {
        for (size_t block = first; block < last; ++block, ++line) {
          for (size_t i = 0; i < kBlock * kBlock; ++i) {
            const size_t row = i / kBlock, column = i % kBlock;
            const int c = code[(block * kBlock + row) * k_blocks * kBlock + k * kBlock + column];
            codes[line * 64 + row * 4 + column % 4] |= static_cast<uint8_t>(c << (column / 4 * 2));
          }
        }
      }
      for (size_t g = 0; g < groups; ++g) {
        for (size_t row = first * kBlock; row < last * kBlock; ++row) magnitude[at++] = size[row * groups + g];
      }
    }
  }
};

void test_trits(const std::vector<const Kernels*>& levels, const Shape& s, Fill weights, Fill activations) {
  const size_t blocks = blocks_of(s.rows), k_blocks = blocks_of(s.columns), padded = k_blocks * kBlock;
  const Rows x(s, activations);
  const auto groups = static_cast<size_t>(x.groups);
  std::vector<int> code(blocks * kBlock * padded);
  std::vector<float> size(blocks * kBlock * groups);
  for (size_t r = 0; r < static_cast<size_t>(s.rows); ++r) {
    for (size_t k = 0; k < static_cast<size_t>(s.columns); ++k) {
      code[r * padded + k] = choose(weights, static_cast<int>(k), -1, 1) + 1;
    }
    for (size_t g = 0; g < groups; ++g) size[r * groups + g] = std::ldexp(0.7f, uniform(-8, 8));
  }
  const bool whole = groups == 1;
  const float start = whole ? -0.0f : 0.0f;
  std::vector<float> truth;
  for (size_t t = 0; t < static_cast<size_t>(s.tokens); ++t) {
    for (size_t r = 0; r < blocks * kBlock; ++r) {
      float sum = start;
      for (size_t g = 0; g < groups; ++g) {
        const size_t first = g * static_cast<size_t>(s.group);
        int64_t exact = 0;
        for (size_t k = first; k < std::min(first + static_cast<size_t>(s.group), padded); ++k) {
          exact += (code[r * padded + k] - 1) * x.q[t * static_cast<size_t>(x.stride) + k];
        }
        sum = sum + static_cast<float>(exact) * size[r * groups + g];
      }
      truth.push_back(sum * x.scale[t]);
    }
  }
  const Activations view = x.view(s);
  std::map<int, std::unique_ptr<Strips>> forms;
  compare(levels, words("linear", s, weights, activations), truth, s.tokens, blocks,
          [&](const Kernels* level, float* y, int64_t y_stride, int begin, int end) {
            auto& strips = forms[level->together];
            if (!strips) {
              const auto together = static_cast<size_t>(level->together);
              strips = std::make_unique<Strips>(code, size, blocks, k_blocks, groups, together);
            }
            const ghost::TritMatrix w{strips->codes.data(), strips->magnitude.data(), start, static_cast<int>(blocks),
                                      static_cast<int>(k_blocks), x.groups,
                                      whole ? static_cast<int>(k_blocks) : s.group / kBlock, level->together};
            level->linear(&w, &view, y, y_stride, begin, end);
          });
}

void test_bytes(const std::vector<const Kernels*>& levels, const Shape& s, Fill weights, Fill activations) {
  const size_t blocks = blocks_of(s.rows), padded = blocks_of(s.columns) * kBlock, k_quads = padded / 4;
  const Rows x(s, activations);
  Guarded<uint8_t> bytes(blocks * k_quads * 64);
  Guarded<float> scale(blocks * kBlock);
  std::vector<int> values(blocks * kBlock * padded, -128);  // what byte 0 stands for
  for (size_t r = 0; r < static_cast<size_t>(s.rows); ++r) {
    scale[r] = std::ldexp(0.7f, uniform(-8, 8));
    for (size_t k = 0; k < static_cast<size_t>(s.columns); ++k) {
      const int w = values[r * padded + k] = choose(weights, static_cast<int>(k), -128, 127);
      bytes[(r / kBlock * k_quads + k / 4) * 64 + r % kBlock * 4 + k % 4] = static_cast<uint8_t>(w + 128);
    }
  }
  std::vector<float> truth;
  for (size_t t = 0; t < static_cast<size_t>(s.tokens); ++t) {
    for (size_t r = 0; r < blocks * kBlock; ++r) {
      int64_t exact = 0;
      for (size_t k = 0; k < padded; ++k) exact += values[r * padded + k] * x.q[t * static_cast<size_t>(x.stride) + k];
      truth.push_back((static_cast<float>(exact) * scale[r]) * x.scale[t]);
    }
  }
  const ghost::ByteMatrix w{bytes.data(), scale.data(), static_cast<int>(blocks), static_cast<int>(k_quads)};
  const Activations view = x.view(s);
  compare(levels, words("linear_bytes", s, weights, activations), truth, s.tokens, blocks,
          [&](const Kernels* level, float* y, int64_t y_stride, int begin, int end) {
            level->linear_bytes(&w, &view, y, y_stride, begin, end);
          });
}

void test_matmuls(const std::vector<const Kernels*>& levels, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    const int tokens = uniform(0, 2) == 0 ? 1 : uniform(2, 40), group = uniform(0, 1) == 0 ? kWhole : 16 * uniform(1, 40);
    test_trits(levels, {uniform(1, 90), uniform(1, 400), tokens, group}, Fill::kRandom, Fill::kRandom);
    test_bytes(levels, {uniform(1, 90), uniform(1, 400), tokens, kWhole}, Fill::kRandom, Fill::kRandom);
  }
  // Around the numbers of columns after which sums of 16 bits are widened, and of rows and tokens of a tile.
  const Shape shapes[] = {{17, 256, 17, kWhole}, {16, 257, 5, kWhole},  {33, 512, 8, kWhole}, {5, 511, 1, kWhole},
                          {16, 4099, 3, kWhole}, {70, 2064, 16, kWhole}, {16, 769, 9, 256},    {64, 1040, 33, 512},
                          {529, 272, 16, kWhole}, {16, 9000, 1, kWhole},
                          {200, 800, 31, kWhole}};
  for (const Shape& shape : shapes) {
    for (int w = 1; w < static_cast<int>(Fill::kCount); ++w) {
      for (int q = 1; q < static_cast<int>(Fill::kCount); ++q) {
        test_trits(levels, shape, static_cast<Fill>(w), static_cast<Fill>(q));
        if (shape.group == kWhole) test_bytes(levels, shape, static_cast<Fill>(w), static_cast<Fill>(q));
      }
    }
  }
}

// Sums as large as they get after any number of columns: all weights and all activations are the same, so the truth is
// a product of three numbers and every number of columns can have its turn.
void test_extremes(const std::vector<const Kernels*>& levels) {
  constexpr int kColumns = 4000, kBlocks = 12, kTokens = 21;
  constexpr size_t kLines = kColumns / kBlock * kBlocks;
  const std::vector<float> ones(kBlocks * kBlock, 1.0f), scale(kTokens, 1.0f);
  for (int fill = 0; fill < 4; ++fill) {
    const bool high = fill % 2 == 0;
    const int value = fill < 2 ? 127 : -127;
    const std::vector<uint8_t> codes(kLines * 64, high ? 0xAA : 0);
    const std::vector<uint8_t> bytes(kLines * 256, high ? 0xFF : 0);
    std::vector<int8_t> q(size_t{kTokens} * kColumns);
    std::vector<int32_t> sums(kTokens);
    for (int k = 1; k <= kColumns; ++k) {
      for (size_t t = 0; t < kTokens; ++t) q[t * kColumns + static_cast<size_t>(k) - 1] = static_cast<int8_t>(value);
      sums.assign(kTokens, value * k);
      const int k_blocks = (k + kBlock - 1) / kBlock;
      if (k % kBlock != 0 && k % 4 != fill) continue;  // all four at the ends of k-blocks, in turn between them
      // Many rows and tokens around the ends of the first 256s of columns, after which tables widen their sums.
      const bool ends = k % kBlock == 0, many = ends && k <= 1040 && (k + kBlock) % 256 < 3 * kBlock;
      const int blocks = many ? kBlocks : 1, all = many ? kTokens : 5;
      ghost::TritMatrix trits{codes.data(), ones.data(), -0.0f, blocks, k_blocks, 1, k_blocks, 1};
      const ghost::ByteMatrix weights{bytes.data(), ones.data(), blocks, 4 * k_blocks};
      for (const int tokens : {1, all}) {
        if (!ends && tokens != (k / 4 % 2 == 0 ? 1 : all)) continue;
        const Activations x{q.data(), scale.data(), sums.data(), tokens, kColumns, 1};
        for (const Kernels* level : levels) {
          std::vector<float> y(static_cast<size_t>(tokens * blocks * kBlock)), expected(y.size());
          trits.together = level->together;  // all codes are the same, in every order
          level->linear(&trits, &x, y.data(), blocks * kBlock, 0, blocks);
          expected.assign(y.size(), static_cast<float>((high ? 1 : -1) * value * k));
          check(same_all(y.data(), expected.data(), y.size()), level, "extreme trits, columns " + std::to_string(k));
          if (!ends) continue;  // int8 sums are as wide as their rows are padded
          level->linear_bytes(&weights, &x, y.data(), blocks * kBlock, 0, blocks);
          expected.assign(y.size(), static_cast<float>((high ? 127 : -128) * value * k));
          check(same_all(y.data(), expected.data(), y.size()), level, "extreme bytes, columns " + std::to_string(k));
        }
      }
    }
  }
}

// Random bit patterns, or numbers of one size.
void fill_floats(Guarded<float>& x, bool patterns) {
  const int exponent = uniform(-140, 100);
  for (size_t i = 0; i < x.size(); ++i) {
    const auto word = static_cast<uint32_t>(generator());
    if (patterns) {
      std::memcpy(&x[i], &word, sizeof word);
    } else {
      x[i] = std::ldexp(static_cast<float>(static_cast<int32_t>(word)), exponent - 31);
    }
  }
}

void test_functions(const std::vector<const Kernels*>& levels, int rounds) {
  using ghost::Function;
  for (int round = 0; round < rounds; ++round) {
    const auto n = static_cast<size_t>(uniform(1, 130));
    Guarded<float> x(n), expected(n), found(n);
    fill_floats(x, round % 2 == 0);
    for (const Function function : {Function::kExp, Function::kLog, Function::kLog1p, Function::kSigmoid,
                                    Function::kSilu, Function::kSoftplus, Function::kRint}) {
      levels[0]->map(function, x.data(), expected.data(), static_cast<int64_t>(n));
      for (const Kernels* level : levels) {
        level->map(function, x.data(), found.data(), static_cast<int64_t>(n));
        check(same_all(expected.data(), found.data(), n), level, "map " + std::to_string(static_cast<int>(function)));
      }
    }
    const int group = kBlock * uniform(1, 9);
    const size_t padded = blocks_of(static_cast<int>(n)) * kBlock, groups = (n + static_cast<size_t>(group) - 1) /
                                                                            static_cast<size_t>(group);
    Guarded<int8_t> q(padded), q_found(padded, 1);
    Guarded<int32_t> sums(groups), sums_found(groups, 1);
    float scale, scale_found;
    levels[0]->quantise_row(x.data(), static_cast<int>(n), group, q.data(), &scale, sums.data());
    for (const Kernels* level : levels) {
      level->quantise_row(x.data(), static_cast<int>(n), group, q_found.data(), &scale_found, sums_found.data());
      check(same(scale, scale_found) && std::memcmp(q.data(), q_found.data(), padded) == 0 &&
                std::memcmp(sums.data(), sums_found.data(), groups * sizeof(int32_t)) == 0,
            level, "quantise_row of " + std::to_string(n));
    }
  }
}

// The control word as a fast-math library leaves it: denormals flushed, rounding upwards.
#if defined(__x86_64__)
uint64_t control() { return _mm_getcsr() & ~0x3Fu; }  // without the flags of exceptions that happened
void set_control(uint64_t word) { _mm_setcsr(static_cast<uint32_t>(word)); }
constexpr uint64_t kHostile = 0x1F80 | 0x8040 | 0x4000;
#elif defined(__aarch64__)
uint64_t control() {
  uint64_t word;
  asm volatile("mrs %0, fpcr" : "=r"(word));
  return word;
}
void set_control(uint64_t word) { asm volatile("msr fpcr, %0" : : "r"(word)); }
constexpr uint64_t kHostile = uint64_t{1} << 22 | uint64_t{1} << 24 | uint64_t{1} << 25;  // RMode, FZ, DN
#endif

#if defined(__x86_64__) || defined(__aarch64__)
void test_control(const std::vector<const Kernels*>& levels) {
  const uint64_t before = control();
  for (const Kernels* level : levels) {
    const float x[] = {0x1p-140f, 3e-39f, 0.1f, -1.7f};
    float expected[4], found[4];
    level->map(ghost::Function::kSilu, x, expected, 4);
    set_control(kHostile);
    bool clean;
    {
      const ghost::FpControl scope;
      clean = control() == before;
      level->map(ghost::Function::kSilu, x, found, 4);
    }
    const bool restored = control() == kHostile;
    set_control(before);
    check(clean && restored && expected[0] > 0.0f && same_all(expected, found, 4), level, "FpControl");
  }
}
#else
void test_control(const std::vector<const Kernels*>&) {}
#endif

}  // namespace

int main(int argc, char** argv) {
  generator.seed(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 0);
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 40;
  const Kernels* tables[ghost::kMaxLevels];
  const std::vector<const Kernels*> levels(tables, tables + ghost::available_levels(tables));
  test_control(levels);
  test_functions(levels, rounds);
  test_matmuls(levels, rounds);
  test_extremes(levels);
  std::printf("%d checks, %d failed; levels %s\n", checks, failures, ghost::level_names().c_str());
  return failures == 0 && checks > 0 ? 0 : 1;
}
