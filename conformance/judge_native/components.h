// What the native core computes, by the names of the kit's components, at one level.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "kernels.h"
#include "vectors.h"

namespace judge {

using Outputs = std::map<std::string, std::vector<float>>;  // row-major; integers as floats, exactly

struct Implementation {
  const char* component;
  // Why the runtime has no such case by design, or nullptr; may be nullptr itself.
  const char* (*absence)(const Case& vectors);
  Outputs (*run)(const ghost::Kernels& kernels, const Case& vectors);
};

// nullptr if the runtime has no such component.
const Implementation* find_implementation(const std::string& component);

// Feeds a case of a packed model ("model" in docs/conformance-vectors.md) at a level, with the static `threads` threads.
// The state is fresh, or given as arguments "state.NAME"; it comes out under the same names, and the file's config as
// the bytes of its JSON.
Outputs run_model(const std::string& file, const std::string& level, const Case& vectors);

// Answers requests on standard input until it ends (serve.cpp); the exit code.
int serve(const ghost::Kernels& level);

}  // namespace judge
