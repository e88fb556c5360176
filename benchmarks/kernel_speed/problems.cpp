// Single kernels on made-up data, timed. Python (kernel_speed.py) or C calls these by name of the level:
//
//   void* p = ghost_problem("trits", 512, 256, 1);          // or "codebook" (groups of 128), "codebook32", "int8", "scan"
//   double s = ghost_seconds(p, "avx2", 0.01, 0);           // seconds per call, -1: this CPU lacks the level
//   ghost_problem_free(p);
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "dispatch.h"
#include "fp_control.h"
#include "peaks.h"
#include "stopwatch.h"

namespace ghost_bench {

const ghost::Kernels* kernels_at(const char* level) {
  const ghost::Kernels* tables[ghost::kMaxLevels];
  for (int i = 0, count = ghost::available_levels(tables); i < count; ++i) {
    if (std::strcmp(level, tables[i]->name) == 0) return tables[i];
  }
  return nullptr;
}

namespace {

using ghost::kBlock;

int blocks_of(int n) { return (n + kBlock - 1) / kBlock; }

// Memory aligned as the runtime aligns its own.
template <typename T>
struct Aligned {
  std::unique_ptr<unsigned char[]> memory;
  T* data;
  explicit Aligned(size_t size) : memory(new unsigned char[size * sizeof(T) + 64]()) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(memory.get());
    data = reinterpret_cast<T*>((at + 63) / 64 * 64);
  }
};

struct Problem {
  virtual ~Problem() = default;
  virtual void run(const ghost::Kernels& kernels) = 0;
  virtual void quantise(const ghost::Kernels&) {}
};

void fill(float* x, size_t n, float low, float high) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(low, high);
  for (size_t i = 0; i < n; ++i) x[i] = uniform(random);
}

// y (tokens, rows) = weights (rows, columns) times quantised x (tokens, columns).
struct Linear : Problem {
  int columns, group, tokens, stride, groups;
  bool int8;
  Aligned<uint8_t> codes;
  Aligned<float> magnitude, x, y, scale;
  Aligned<int8_t> q;
  Aligned<int32_t> sums;
  ghost::TritMatrix trits{};
  ghost::ByteMatrix bytes{};

  Linear(int rows, int columns_, int group_, int tokens_, bool int8_)
      : columns(columns_), group(group_), tokens(tokens_), stride(blocks_of(columns_) * kBlock),
        groups((columns_ + group_ - 1) / group_), int8(int8_),
        codes(size_t(blocks_of(rows)) * kBlock * stride / (int8_ ? 1 : 4)),
        magnitude(size_t(blocks_of(rows)) * kBlock * groups), x(size_t(tokens_) * stride),
        y(size_t(tokens_) * blocks_of(rows) * kBlock), scale(tokens_), q(size_t(tokens_) * stride),
        sums(size_t(tokens_) * groups) {
    std::mt19937 random(2);
    const size_t size = size_t(blocks_of(rows)) * kBlock * stride;
    for (size_t i = 0; i < size; ++i) {
      if (int8) codes.data[i] = uint8_t(random() % 255 + 1);
      else codes.data[i / 4] |= uint8_t(random() % 3 << i % 4 * 2);
    }
    fill(magnitude.data, size_t(blocks_of(rows)) * kBlock * groups, 0.1f, 1.0f);
    fill(x.data, size_t(tokens) * stride, -1.0f, 1.0f);
    trits = {codes.data, magnitude.data, groups > 1 ? 0.0f : -0.0f, blocks_of(rows), stride / kBlock, groups,
             groups > 1 ? group / kBlock : stride / kBlock, 1};
    bytes = {codes.data, magnitude.data, blocks_of(rows), stride / 4};
    quantise(*ghost::kernels_scalar());
  }
  void quantise(const ghost::Kernels& kernels) override {
    for (int t = 0; t < tokens; ++t) {
      kernels.quantise_row(x.data + size_t(t) * stride, columns, group, q.data + size_t(t) * stride, scale.data + t,
                           sums.data + size_t(t) * groups);
    }
  }
  void run(const ghost::Kernels& kernels) override {
    const ghost::Activations activations{q.data, scale.data, sums.data, tokens, stride, groups};
    const int blocks = trits.blocks;
    trits.together = kernels.together;  // the codes are random, in every order
    if (int8) kernels.linear_bytes(&bytes, &activations, y.data, int64_t{blocks} * kBlock, 0, blocks);
    else kernels.linear(&trits, &activations, y.data, int64_t{blocks} * kBlock, 0, blocks);
  }
};

// The selective scan of `channels` channels with `d_state` states each over `tokens` tokens.
struct Scan : Problem {
  int channels, d_state, tokens;
  Aligned<float> dt, bias, x, z, bc, A, D, state, out;

  Scan(int channels_, int d_state_, int tokens_)
      : channels(blocks_of(channels_) * kBlock), d_state(d_state_), tokens(tokens_), dt(size_t(channels) * tokens),
        bias(channels), x(dt_size()), z(dt_size()), bc(size_t(tokens) * 2 * d_state), A(size_t(channels) * d_state),
        D(channels), state(size_t(channels) * d_state), out(dt_size()) {
    fill(dt.data, dt_size(), -6.0f, 0.0f);
    fill(x.data, dt_size(), -1.0f, 1.0f);
    fill(z.data, dt_size(), -1.0f, 1.0f);
    fill(bc.data, size_t(tokens) * 2 * d_state, -1.0f, 1.0f);
    fill(A.data, size_t(channels) * d_state, -16.0f, -1.0f);
    fill(D.data, channels, 0.5f, 1.5f);
  }
  size_t dt_size() const { return size_t(channels) * tokens; }
  void run(const ghost::Kernels& kernels) override {
    const ghost::ScanArguments arguments{dt.data, bias.data, x.data,    z.data,   bc.data, A.data,      D.data,
                                         state.data, out.data, d_state, tokens, channels, 2 * d_state};
    kernels.scan(&arguments, 0, channels / kBlock);
  }
};

}  // namespace
}  // namespace ghost_bench

using ghost_bench::Linear;
using ghost_bench::Problem;

// kind "trits", "codebook" (groups of 128 columns), "codebook32", "int8", or "scan" (rows: channels, columns: d_state).
// nullptr if there is no such kind.
extern "C" void* ghost_problem(const char* kind, int rows, int columns, int tokens) {
  constexpr int kWholeRow = 1 << 30;
  const auto is = [&](const char* name) { return std::strcmp(kind, name) == 0; };
  Problem* problem = is("trits")        ? new Linear(rows, columns, kWholeRow, tokens, false)
                     : is("codebook")   ? new Linear(rows, columns, 128, tokens, false)
                     : is("codebook32") ? new Linear(rows, columns, 32, tokens, false)
                     : is("int8")       ? new Linear(rows, columns, kWholeRow, tokens, true)
                     : is("scan")       ? static_cast<Problem*>(new ghost_bench::Scan(rows, columns, tokens))
                                        : nullptr;
  return problem;
}

// Seconds per call of a level's kernel, measured for about `seconds`; quantise: with the quantisation of x in it.
extern "C" double ghost_seconds(void* problem, const char* level, double seconds, int quantise) {
  const ghost::Kernels* kernels = ghost_bench::kernels_at(level);
  if (kernels == nullptr) return -1;
  const ghost::FpControl control;
  Problem& p = *static_cast<Problem*>(problem);
  return ghost::seconds_per_call(seconds, [&] {
    if (quantise != 0) p.quantise(*kernels);
    p.run(*kernels);
  });
}

extern "C" void ghost_problem_free(void* problem) { delete static_cast<Problem*>(problem); }

// The limits of ext/core/peaks.h.
extern "C" double ghost_limit(const char* name, double seconds) { return ghost::limit(name, seconds); }
extern "C" double ghost_read_rate(double bytes, double seconds) { return ghost::read_rate(bytes, seconds); }
