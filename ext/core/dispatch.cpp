#include "dispatch.h"

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace ghost {
namespace {

#if defined(__x86_64__) || defined(_M_X64)

struct CpuFeatures {
  bool avx2 = false;
  bool avxvnni = false;
  bool avx512vnni = false;
};

// Register state that the operating system saves (XCR0).
uint64_t enabled_state() {
  uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

CpuFeatures detect() {
  constexpr uint32_t kOsxsave = 1u << 27, kAvx = 1u << 28;                                       // leaf 1, ecx
  constexpr uint32_t kAvx2 = 1u << 5, kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;  // leaf 7, ebx
  constexpr uint32_t kVnni = 1u << 11;                                                           // leaf 7, ecx
  constexpr uint64_t kYmmState = 0x06, kZmmState = 0xE6;
  CpuFeatures features;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kOsxsave) == 0 || (c & kAvx) == 0) return features;
  const uint64_t state = enabled_state();
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return features;
  features.avx2 = (state & kYmmState) == kYmmState && (b & kAvx2) != 0;
  uint32_t a1 = 0, b1 = 0, c1 = 0, d1 = 0;
  features.avxvnni = features.avx2 && __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1) && (a1 & (1u << 4)) != 0;
  constexpr uint32_t kAvx512 = kF | kDq | kBw | kVl;
  features.avx512vnni =
      features.avx2 && (state & kZmmState) == kZmmState && (b & kAvx512) == kAvx512 && (c & kVnni) != 0;
  return features;
}

#elif defined(__aarch64__)

// FEAT_DotProd, as the operating system tells it: the ID registers are not readable in user mode everywhere.
bool has_dot_products() {
#if defined(__linux__)
  constexpr unsigned long kAsimdDp = 1ul << 20;  // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & kAsimdDp) != 0;
#elif defined(__APPLE__)
  int present = 0;
  size_t size = sizeof present;
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &present, &size, nullptr, 0) == 0 && present != 0;
#else
  return false;
#endif
}

#endif

}  // namespace

int available_levels(const Kernels** tables) {
  int count = 0;
  tables[count++] = kernels_scalar();
#if defined(__x86_64__) || defined(_M_X64)
  const CpuFeatures features = detect();
  if (features.avx2) tables[count++] = kernels_avx2();
  if (features.avxvnni) tables[count++] = kernels_avxvnni();
  if (features.avx512vnni) tables[count++] = kernels_avx512vnni();
#elif defined(__aarch64__)
  tables[count++] = kernels_neon();
  if (has_dot_products()) tables[count++] = kernels_neondot();
#endif
  return count;
}

int known_levels(Level* levels) {
  static constexpr Level kNeeds[] = {
      {"scalar", "nothing"},
#if defined(__x86_64__) || defined(_M_X64)
      {"avx2", "a CPU with AVX2, and a system that saves its registers"},
      {"avx512vnni", "a CPU with AVX-512 F, BW, DQ, VL and VNNI, and a system that saves its registers"},
#elif defined(__aarch64__)
      {"neon", "nothing"},
      {"neondot", "a CPU with dot products (FEAT_DotProd), and a system that tells of them"},
#endif
  };
  const Kernels* tables[kMaxLevels];
  const int available = available_levels(tables);
  int count = 0;
  for (Level level : kNeeds) {
    for (int i = 0; i < available; ++i) {
      if (std::strcmp(tables[i]->name, level.name) == 0) level.missing = nullptr;
    }
    levels[count++] = level;
  }
  return count;
}

std::string level_names() {
  const Kernels* tables[kMaxLevels];
  std::string names;
  for (int i = 0, count = available_levels(tables); i < count; ++i) {
    if (i > 0) names += ", ";
    names += tables[i]->name;
  }
  return names;
}

Status select_kernels(const std::string& name, const Kernels** kernels) {
  const char* variable = std::getenv("GHOST_ISA");
  const bool from_environment = name.empty() && variable != nullptr && *variable != '\0';
  const std::string wanted = from_environment ? variable : name;
  const Kernels* tables[kMaxLevels];
  const int count = available_levels(tables);
  for (int i = 0; i < count; ++i) {
    if (wanted.empty() || wanted == tables[i]->name) *kernels = tables[i];
    if (wanted == tables[i]->name) return Status();
  }
  if (wanted.empty()) return Status();
  return Status::error(std::string(from_environment ? "GHOST_ISA" : "level") + " is '" + wanted +
                       "', which this machine cannot run; choose one of: " + level_names() + ".");
}

}  // namespace ghost
