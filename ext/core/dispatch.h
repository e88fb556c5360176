// Which instruction sets this CPU can run, and the kernels of one.
#pragma once

#include <string>

#include "kernels.h"
#include "status.h"

namespace ghost {

constexpr int kMaxLevels = 4;

struct Level {
  const char* name;
  const char* missing;  // nullptr if it can run here, else why not: "this CPU has no AVX-VNNI", ...
};

// The levels made for this kind of CPU, best last; returns how many.
int known_levels(Level* levels);

// The kernel tables this CPU can run, best last; returns how many.
int available_levels(const Kernels** tables);

// A level of this architecture that would be better than the one in use, and why it is not used: "this CPU has no
// AVX-VNNI", "the operating system does not save the zmm registers", "GHOST_ISA asks for avx2".
struct LevelNotUsed {
  std::string name, reason;
};

// Fills `levels` (at most kMaxLevels); returns how many. chosen_by: what made the choice, "GHOST_ISA" or the like.
int levels_not_used(const Kernels* used, const std::string& chosen_by, LevelNotUsed* levels);

// The names of the available levels, "scalar, avx2, avx512vnni" or "scalar, neon, neondot".
std::string level_names();

// The kernels of the named level. An empty name means GHOST_ISA from the environment, or the best level without it.
// A name this CPU (or this build) does not have is an error that says where the name came from and names the choices.
Status select_kernels(const std::string& name, const Kernels** kernels);

}  // namespace ghost
