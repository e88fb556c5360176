// The model's configuration: the twin of ModelConfig in ghost_ref/config.py.
#pragma once

#include <string>
#include <vector>

#include "status.h"

namespace ghost {

struct Config {
  int d_model = 0;
  int n_layers = 0;
  int d_state = 0;
  int d_conv = 0;
  int expand = 0;
  int dt_rank = 0;
  int d_ff = 0;
  int codebook_group = 0;
  int n_heads = 0;
  int attention_stride = 0;
  int attention_slots = 0;
  int memory_capacity = 0;
  double mod_capacity = 0;
  double surprise_threshold = 0;
  std::string linear;
  std::vector<int> attention_layers;
  std::vector<int> memory_layers;
  std::vector<int> mod_layers;
  std::vector<int> depth_layers;
  std::vector<int> surprise_layers;

  int d_inner() const { return expand * d_model; }
};

bool contains(const std::vector<int>& layers, int layer);

// Parses and checks the JSON of a packed file: every field present, none unknown, every range that ModelConfig checks.
Status parse_config(const std::string& json, Config* config);

}  // namespace ghost
