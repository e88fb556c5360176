#include <sys/stat.h>

#include <cstdlib>

#include "model_handle.h"
#include "output.h"
#include "verbs.h"

namespace ghost_cli {
namespace {

// The members of a flat JSON object whose values are numbers, strings and lists of numbers, as ModelConfig's are:
// one a line. The core has checked it.
std::string show_config(const std::string& json) {
  std::string text, name;
  int depth = 0;
  bool in_string = false;
  for (const char c : json) {
    in_string = c == '"' ? !in_string : in_string;
    if (!in_string) depth += c == '{' || c == '[' ? 1 : c == '}' || c == ']' ? -1 : 0;
    if (depth == 1 && (c == '{' || c == ',')) {
      text += text.empty() ? "  " : "\n  ";
    } else if (depth >= 1 && c != '"') {
      text += c == ':' ? " " : std::string(1, c);
    }
  }
  return text + "\n";
}

std::string json_string(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += static_cast<unsigned char>(c) < 0x20 ? format("\\u%04x", static_cast<unsigned>(c)) : std::string(1, c);
  }
  return quoted + "\"";
}

}  // namespace

std::string describe_level(const std::string& level, const Settings& settings) {
  const char* variable = std::getenv("GHOST_ISA");
  const std::string asked = !settings.level.empty()                     ? "--level"
                            : variable != nullptr && *variable != '\0' ? "GHOST_ISA"
                                                                        : "";
  std::string text = "level: " + level + " (" + (asked.empty() ? "the best this CPU has" : "set by " + asked) + ")\n";
  const char* missing = nullptr;
  bool better = false;
  for (int i = 0; const char* name = ghost_level(i, &missing); ++i) {
    const std::string why = missing != nullptr ? missing : asked + " asks for " + level;
    if (better) text += std::string("  not ") + name + ": " + why + "\n";
    better = better || level == name;
  }
  return text;
}

int info(const std::string& path, const Settings& settings) {
  ModelHandle model;
  if (std::string wrong = load(path, settings.threads, settings.level, &model); !wrong.empty()) return complain(wrong);
  struct stat file = {};
  if (stat(path.c_str(), &file) != 0) return complain(path + " has gone.");
  const uint64_t size = static_cast<uint64_t>(file.st_size);
  const ghost_info info = ghost_get_info(model.get());
  if (settings.json) {
    print(format("{\"file\": %s, \"bytes\": %llu, \"level\": \"%s\", \"threads\": %d, \"model_bytes\": %zu, "
                 "\"state_bytes\": %zu, \"config\": ",
                 json_string(path).c_str(), static_cast<unsigned long long>(size), info.level, info.threads,
                 info.model_bytes, info.state_bytes) +
          info.config_json + "}\n");
    return kDone;
  }
  print(path + ": " + with_commas(size) + " bytes, its checksum is right\n" + show_config(info.config_json) +
        "memory: " + with_commas(info.model_bytes) + " bytes, and " + with_commas(info.state_bytes) +
        " for each state\n" + describe_level(info.level, settings));
  return kDone;
}

}  // namespace ghost_cli
