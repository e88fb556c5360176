#include "dispatch.h"

#include <cstdlib>
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

// A bit of CPUID, and the sentence said where it is missing.
struct Feature {
  const char* missing;
  uint32_t leaf, subleaf;
  Register where;
  int bit;
};

constexpr Feature kOsxsave{"this CPU or system has no XSAVE", 1, 0, kEcx, 27};
constexpr Feature kAvx2{"this CPU has no AVX2", 7, 0, kEbx, 5};
constexpr Feature kAvxVnni{"this CPU has no AVX-VNNI", 7, 1, kEax, 4};
constexpr Feature kAvx512F{"this CPU has no AVX-512 F", 7, 0, kEbx, 16};
constexpr Feature kAvx512Dq{"this CPU has no AVX-512 DQ", 7, 0, kEbx, 17};
constexpr Feature kAvx512Bw{"this CPU has no AVX-512 BW", 7, 0, kEbx, 30};
constexpr Feature kAvx512Vl{"this CPU has no AVX-512 VL", 7, 0, kEbx, 31};
constexpr Feature kAvx512Vnni{"this CPU has no AVX-512 VNNI", 7, 0, kEcx, 11};

bool has(const Feature& feature) {
  uint32_t registers[4] = {};
  return __get_cpuid_count(feature.leaf, feature.subleaf, &registers[kEax], &registers[kEbx], &registers[kEcx],
                           &registers[kEdx]) != 0 && (registers[feature.where] >> feature.bit & 1) != 0;
}

// What keeps this machine from using the features, and the registers that the operating system must save for them (bits
// of XCR0); nullptr: nothing.
const char* obstacle(std::initializer_list<Feature> features, uint64_t state, const char* state_missing) {
  for (const Feature& feature : features) {
    if (!has(feature)) return feature.missing;
  }
  uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & state) == state ? nullptr : state_missing;
}

constexpr uint64_t kYmmState = 0x06, kZmmState = 0xE6;
constexpr char kNoYmm[] = "the operating system does not save the ymm registers";
constexpr char kNoZmm[] = "the operating system does not save the zmm registers";

const char* avx2_obstacle() { return obstacle({kOsxsave, kAvx2}, kYmmState, kNoYmm); }
const char* avxvnni_obstacle() { return obstacle({kOsxsave, kAvx2, kAvxVnni}, kYmmState, kNoYmm); }
const char* avx512vnni_obstacle() {
  return obstacle({kOsxsave, kAvx2, kAvx512F, kAvx512Dq, kAvx512Bw, kAvx512Vl, kAvx512Vnni}, kZmmState, kNoZmm);
}

#elif defined(__aarch64__)

// FEAT_DotProd, as the operating system tells it: the ID registers are not readable in user mode everywhere.
const char* neondot_obstacle() {
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
  return present ? nullptr : "this CPU has no dot products (FEAT_DotProd)";
}

#endif

const char* no_obstacle() { return nullptr; }

struct Entry {
  const char* name;
  const Kernels* (*kernels)();
  const char* (*obstacle)();
};

// The levels of this architecture, best last.
constexpr Entry kLevels[] = {
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

int known_levels(Level* levels) {
  int count = 0;
  for (const Entry& level : kLevels) levels[count++] = {level.name, level.obstacle()};
  return count;
}

int available_levels(const Kernels** tables) {
  int count = 0;
  for (const Entry& level : kLevels) {
    if (level.obstacle() == nullptr) tables[count++] = level.kernels();
  }
  return count;
}

int levels_not_used(const Kernels* used, const std::string& chosen_by, LevelNotUsed* levels) {
  int count = 0;
  bool better = false;
  for (const Entry& level : kLevels) {
    if (better) {
      const char* obstacle = level.obstacle();
      levels[count++] = {level.name, obstacle != nullptr ? obstacle : chosen_by + " asks for " + used->name};
    }
    better = better || level.kernels() == used;
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
  for (const Entry& level : kLevels) {
    if (wanted == level.name) reason = std::string(" (") + level.obstacle() + ")";
  }
  return Status::error(std::string(from_environment ? "GHOST_ISA" : "level") + " is '" + wanted +
                       "', which this machine cannot run" + reason + "; choose one of: " + level_names() + ".");
}

}  // namespace ghost
