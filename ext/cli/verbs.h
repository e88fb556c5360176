// The verbs that report. Each returns the exit code.
#pragma once

#include <string>

#include "arguments.h"

namespace ghost_cli {

// Speed and memory, per number of threads, each in a process of its own.
int bench(const std::string& path, const Settings& settings);

// Whether the file is sound, and whether every level and number of threads computes the same bits from it.
int check(const std::string& path, const Settings& settings);

// What the file holds, and what runs it here: the fields of `ghost info`.
int info(const std::string& path, const Settings& settings);

// "level: avx2 (the best this CPU has)", then a line for each better level, and why not.
std::string describe_level(const std::string& level, const Settings& settings);

// The same as members of a JSON object: level, chosen_by (--level, GHOST_ISA or default) and not_used.
std::string json_level(const std::string& level, const Settings& settings);

// CPUs that this process may use.
int available_cpus();

// Text as a JSON string.
std::string json_string(const std::string& text);

}  // namespace ghost_cli
