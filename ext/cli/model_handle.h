// Owners of the C interface's handles.
#pragma once

#include <memory>
#include <string>

#include "../capi/ghost.h"

namespace ghost_cli {

struct FreeModel {
  void operator()(ghost_model* model) const { ghost_free(model); }
};
struct FreeState {
  void operator()(ghost_state* state) const { ghost_free_state(state); }
};
using ModelHandle = std::unique_ptr<ghost_model, FreeModel>;
using StateHandle = std::unique_ptr<ghost_state, FreeState>;

// All return "" or the sentence.
inline std::string load(const std::string& path, int threads, const std::string& level, ModelHandle* out) {
  ghost_model* model = nullptr;
  ghost_error error;
  if (ghost_load(path.c_str(), threads, level.c_str(), &model, &error) != GHOST_OK) return error.text;
  out->reset(model);
  return "";
}

// A state before the first byte, in the memory of the last one if there is one.
inline std::string fresh_state(const ModelHandle& model, StateHandle* out) {
  ghost_state* state = nullptr;
  ghost_error error;
  if (*out != nullptr) return ghost_reset(out->get(), &error) == GHOST_OK ? "" : error.text;
  if (ghost_new_state(model.get(), &state, &error) != GHOST_OK) return error.text;
  out->reset(state);
  return "";
}

}  // namespace ghost_cli
