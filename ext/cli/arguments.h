// The command line: a table of flags per verb, their values checked as `ghost run` checks them.
#pragma once

#include <string>
#include <vector>

#include "../capi/ghost.h"

namespace ghost_cli {

// What the flags of all verbs set.
struct Settings {
  ghost_sampling sampling = ghost_greedy();
  long long max_bytes = 256;
  int threads = 1;
  bool threads_given = false;
  std::string level;
  bool stream = false, raw = false, from_stdin = false, json = false;
  int repeats = 7, prompts = 16;
};

// One field that a flag (or a session's command) sets from a number.
// Returns "" or the sentence that refuses `value`; names are those of `ghost run`, with - or _.
std::string set_number(const std::string& name, const std::string& value, Settings* settings);

// Whether a session may set it.
bool is_sampling_field(const std::string& name);

// The sampling fields with their values, as the session shows them.
std::string show_sampling(const Settings& settings);

struct Arguments {
  Settings settings;
  std::vector<std::string> positional;
  bool help = false;
};

// Parses what follows the verb; `allowed` are the names of its flags. Returns "" or the sentence.
std::string parse_arguments(int count, char** words, const std::vector<std::string>& allowed, Arguments* out);

}  // namespace ghost_cli
