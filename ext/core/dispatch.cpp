#include "dispatch.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

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

enum Register { kEax, kEbx, kEcx, kEdx };

// A bit of CPUID.
struct Feature {
  const char* name;
  uint32_t leaf, subleaf;
  Register where;
  int bit;
};

constexpr Feature kOsxsave{"XSAVE", 1, 0, kEcx, 27}, kAvx2{"AVX2", 7, 0, kEbx, 5}, kAvxVnni{"AVX-VNNI", 7, 1, kEax, 4};
constexpr Feature kAvx512F{"AVX-512 F", 7, 0, kEbx, 16}, kAvx512Dq{"AVX-512 DQ", 7, 0, kEbx, 17};
constexpr Feature kAvx512Bw{"AVX-512 BW", 7, 0, kEbx, 30}, kAvx512Vl{"AVX-512 VL", 7, 0, kEbx, 31};
constexpr Feature kAvx512Vnni{"AVX-512 VNNI", 7, 0, kEcx, 11};

bool has(const Feature& feature) {
  uint32_t registers[4] = {};
  return __get_cpuid_count(feature.leaf, feature.subleaf, &registers[kEax], &registers[kEbx], &registers[kEcx],
                           &registers[kEdx]) != 0 && (registers[feature.where] >> feature.bit & 1) != 0;
}

// What keeps this machine from using the features and the registers that the operating system must save (bits of XCR0);
// empty: nothing.
std::string obstacle(std::initializer_list<Feature> features, uint64_t state, const char* registers) {
  for (const Feature& feature : features) {
    if (!has(feature)) return std::string("this CPU has no ") + feature.name;
  }
  uint32_t low = 0, high = 0;
  if (has(kOsxsave)) asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & state) == state) return std::string();
  return std::string("the operating system does not save the ") + registers + " registers";
}

constexpr uint64_t kYmmState = 0x06, kZmmState = 0xE6;

std::string avx2_obstacle() { return obstacle({kAvx2}, kYmmState, "ymm"); }
std::string avxvnni_obstacle() { return obstacle({kAvx2, kAvxVnni}, kYmmState, "ymm"); }
std::string avx512vnni_obstacle() {
  return obstacle({kAvx2, kAvx512F, kAvx512Dq, kAvx512Bw, kAvx512Vl, kAvx512Vnni}, kZmmState, "zmm");
}

#elif defined(__aarch64__)

// FEAT_DotProd, as the operating system tells it: the ID registers are not readable in user mode everywhere.
std::string neondot_obstacle() {
#if defined(__linux__)
  constexpr unsigned long kAsimdDp = 1ul << 20;  // HWCAP_ASIMDDP
  const bool present = (getauxval(AT_HWCAP) & kAsimdDp) != 0;
#elif defined(__APPLE__)
  int value = 0;
  size_t size = sizeof value;
  const bool present = sysctlbyname("hw.optional.arm.FEAT_DotProd", &value, &size, nullptr, 0) == 0 && value != 0;
#else
  return "this operating system does not tell whether the CPU has dot products (FEAT_DotProd)";
#endif
  return present ? "" : "this CPU has no dot products (FEAT_DotProd)";
}

#endif

std::string no_obstacle() { return std::string(); }

struct Level {
  const char* name;
  const Kernels* (*kernels)();
  std::string (*obstacle)();
};

// The levels of this architecture, best last.
constexpr Level kLevels[] = {
    {"scalar", kernels_scalar, no_obstacle},
#if defined(__x86_64__) || defined(_M_X64)
    {"avx2", kernels_avx2, avx2_obstacle},
    {"avxvnni", kernels_avxvnni, avxvnni_obstacle},
    {"avx512vnni", kernels_avx512vnni, avx512vnni_obstacle},
#elif defined(__aarch64__)
    {"neon", kernels_neon, no_obstacle},
    {"neondot", kernels_neondot, neondot_obstacle},
#endif
};
static_assert(sizeof kLevels / sizeof *kLevels <= kMaxLevels, "arrays of levels have kMaxLevels elements");

}  // namespace

int available_levels(const Kernels** tables) {
  int count = 0;
  for (const Level& level : kLevels) {
    if (level.obstacle().empty()) tables[count++] = level.kernels();
  }
  return count;
}

int levels_not_used(const Kernels* used, const std::string& chosen_by, LevelNotUsed* levels) {
  int count = 0;
  bool better = false;
  for (const Level& level : kLevels) {
    if (better) {
      const std::string obstacle = level.obstacle();
      levels[count++] = {level.name, obstacle.empty() ? chosen_by + " asks for " + used->name : obstacle};
    }
    better = better || level.kernels() == used;
  }
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
  std::string reason;
  for (const Level& level : kLevels) {
    if (wanted == level.name) reason = " (" + level.obstacle() + ")";
  }
  return Status::error(std::string(from_environment ? "GHOST_ISA" : "level") + " is '" + wanted +
                       "', which this machine cannot run" + reason + "; choose one of: " + level_names() + ".");
}

}  // namespace ghost
