// What this machine reads from memory at most: several threads, each one stream over its own part, huge pages.
#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kPages = 4096;

// Each thread's part is read from `streams` places at once; the CPU's prefetchers like some numbers better.
using Reader = uint64_t (*)(const char* memory, size_t bytes, int streams);

__attribute__((target("avx2"))) uint64_t read256(const char* memory, size_t bytes, int streams) {
  __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  const size_t part = bytes / streams;
  for (size_t at = 0; at < part; at += 64) {
    for (int s = 0; s < streams; ++s) {
      const auto* line = reinterpret_cast<const __m256i*>(memory + s * part + at);
      sums[0] = _mm256_xor_si256(sums[0], _mm256_load_si256(line));
      sums[1] = _mm256_xor_si256(sums[1], _mm256_load_si256(line + 1));
    }
  }
  uint64_t out[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_xor_si256(sums[0], sums[1]));
  return out[0] ^ out[1] ^ out[2] ^ out[3];
}

__attribute__((target("avx512f"))) uint64_t read512(const char* memory, size_t bytes, int streams) {
  __m512i sum = _mm512_setzero_si512();
  const size_t part = bytes / streams;
  for (size_t at = 0; at < part; at += 64) {
    for (int s = 0; s < streams; ++s) {
      sum = _mm512_xor_si512(sum, _mm512_load_si512(memory + s * part + at));
    }
  }
  uint64_t out[8], all = 0;
  _mm512_storeu_si512(out, sum);
  for (const uint64_t word : out) all ^= word;
  return all;
}

}  // namespace

extern "C" {

// `bytes` of memory, written once; nullptr without memory or AVX2.
void* ghost_reading_memory(size_t bytes) {
  if (!__builtin_cpu_supports("avx2")) return nullptr;
  bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* memory = std::aligned_alloc(kHugePage, bytes);
  if (memory == nullptr) return nullptr;
  madvise(memory, bytes, MADV_HUGEPAGE);
  std::memset(memory, 1, bytes);
  return memory;
}

void ghost_reading_free(void* memory) { std::free(memory); }

// Seconds in which `threads` threads read all `bytes` once, on average over `times`, each its own part from `streams`
// places.
double ghost_reading_seconds(const void* memory, size_t bytes, int threads, int streams, int times) {
  const Reader reader = __builtin_cpu_supports("avx512f") ? read512 : read256;
  const size_t part = bytes / threads / kPages * kPages / streams / 64 * 64 * streams;
  std::atomic<int> waiting{threads};
  std::atomic<uint64_t> sum{0};
  std::vector<std::thread> team;
  std::vector<double> seconds(static_cast<size_t>(threads));
  for (int t = 0; t < threads; ++t) {
    team.emplace_back([&, t] {
      waiting.fetch_sub(1);
      while (waiting.load() > 0) _mm_pause();
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < times; ++i) sum += reader(static_cast<const char*>(memory) + t * part, part, streams);
      seconds[static_cast<size_t>(t)] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    });
  }
  for (std::thread& member : team) member.join();
  const double slowest = *std::max_element(seconds.begin(), seconds.end());
  return slowest / times * static_cast<double>(bytes) / static_cast<double>(part * static_cast<size_t>(threads)) +
         (sum.load() == 1 ? 1e-12 : 0.0);  // what was read is used
}

}
