// The verbs that report. Each returns the exit code.
#pragma once

#include <string>

#include "arguments.h"

namespace ghost_cli {

// Speed and memory, per number of threads, each in a process of its own.
int bench(const std::string& path, const Settings& settings);

// Whether the file is sound, and whether every level and number of threads computes the same bits from it.
int check(const std::string& path, const Settings& settings);

// Size, configuration, memory, level and why not a higher one.
int info(const std::string& path, const Settings& settings);

// "level: avx2 (the best this CPU has)", then a line for each better level, and why not.
std::string describe_level(const std::string& level, const Settings& settings);

}  // namespace ghost_cli
