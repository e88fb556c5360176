// Answers: to one prompt, to all of standard input, to every line of it, or in a session on a terminal.
#pragma once

#include <string>

#include "arguments.h"
#include "model_handle.h"

namespace ghost_cli {

// The verb without a name: `ghost-run FILE [PROMPT]`. Returns the exit code.
int run(const std::string& path, const std::string* prompt, const Settings& settings);

}  // namespace ghost_cli
