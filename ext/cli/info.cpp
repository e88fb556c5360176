#include <cstdlib>
#include <vector>

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

// Who chose the level: "--level", "GHOST_ISA", or "" for the best that the CPU has.
std::string chosen_by(const Settings& settings) {
  const char* variable = std::getenv("GHOST_ISA");
  if (!settings.level.empty()) return "--level";
  return variable != nullptr && *variable != '\0' ? "GHOST_ISA" : "";
}

// Calls use(name, reason) for every level that is better than `level`.
template <typename Use>
void each_level_not_used(const std::string& level, const Settings& settings, Use use) {
  const char* missing = nullptr;
  bool better = false;
  for (int i = 0; const char* name = ghost_level(i, &missing); ++i) {
    if (better) use(name, missing != nullptr ? missing : chosen_by(settings) + " asks for " + level);
    better = better || level == name;
  }
}

struct StorageKind {
  std::string name;
  uint64_t bytes;
};

std::vector<StorageKind> storage_of(const ModelHandle& model) {
  std::vector<StorageKind> kinds;
  uint64_t bytes = 0;
  for (int i = 0; const char* name = ghost_storage(model.get(), i, &bytes); ++i) kinds.push_back({name, bytes});
  return kinds;
}

std::string json_storage(const std::vector<StorageKind>& kinds) {
  std::string text;
  for (const StorageKind& kind : kinds) {
    text += (text.empty() ? "" : ", ") + json_string(kind.name) + ": " + std::to_string(kind.bytes);
  }
  return "{" + text + "}";
}

// What every kind of tensor costs, as `ghost info` shows it.
std::string show_storage(const std::vector<StorageKind>& kinds, int64_t parameters) {
  const double total = static_cast<double>(kinds.back().bytes);
  std::string text = format("%-18s  %13s  %6s\n", "kind", "bytes", "share");
  for (const StorageKind& kind : kinds) {
    const std::string name = kind.name == "total" ? "packed file" : kind.name;
    text += format("%-18s  %13s  %5.1f%%\n", name.c_str(), with_commas(kind.bytes).c_str(),
                   100 * static_cast<double>(kind.bytes) / total);
  }
  return text + format("%.2f bits per parameter\n", 8 * total / static_cast<double>(parameters));
}

}  // namespace

std::string json_string(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += static_cast<unsigned char>(c) < 0x20 ? format("\\u%04x", static_cast<unsigned>(c)) : std::string(1, c);
  }
  return quoted + "\"";
}

std::string describe_level(const std::string& level, const Settings& settings) {
  const std::string asked = chosen_by(settings);
  std::string text = "level: " + level + " (" + (asked.empty() ? "the best this CPU has" : "set by " + asked) + ")\n";
  each_level_not_used(level, settings,
                      [&](const std::string& name, const std::string& why) { text += "  not " + name + ": " + why + "\n"; });
  return text;
}

std::string json_level(const std::string& level, const Settings& settings) {
  const std::string asked = chosen_by(settings);
  std::string not_used;
  each_level_not_used(level, settings, [&](const std::string& name, const std::string& why) {
    not_used += (not_used.empty() ? "" : ", ") + json_string(name) + ": " + json_string(why);
  });
  return "\"level\": " + json_string(level) + ", \"chosen_by\": " + json_string(asked.empty() ? "default" : asked) +
         ", \"not_used\": {" + not_used + "}";
}

int info(const std::string& path, const Settings& settings) {
  ModelHandle model;
  if (std::string wrong = load(path, settings.threads, settings.level, &model); !wrong.empty()) return complain(wrong);
  const ghost_info info = ghost_get_info(model.get());
  const std::vector<StorageKind> storage = storage_of(model);
  const uint64_t size = storage.back().bytes, parameters = static_cast<uint64_t>(info.parameters);
  if (settings.json) {
    print("{\"file\": " + json_string(path) + ", \"bytes\": " + std::to_string(size) + ", \"parameters\": " +
          std::to_string(parameters) + ", \"config\": " + info.config_json + ", \"storage\": " + json_storage(storage) +
          ", \"runtime\": {" + json_level(info.level, settings) +
          format(", \"threads\": %d, \"cpus\": %d, \"model_bytes\": %zu, \"state_bytes\": %zu}}\n", info.threads,
                 available_cpus(), info.model_bytes, info.state_bytes));
    return kDone;
  }
  print(path + ": " + with_commas(parameters) + " parameters\n\n" + show_config(info.config_json) + "\n" +
        show_storage(storage, info.parameters) + "\n" + describe_level(info.level, settings) +
        format("threads: %d (this machine has %d CPUs)\n", info.threads, available_cpus()) + "memory: " +
        with_commas(info.model_bytes) + " bytes, and " + with_commas(info.state_bytes) + " for each state\n");
  return kDone;
}

}  // namespace ghost_cli
