#include "arguments.h"

#include <cerrno>
#include <cstdlib>

#include "output.h"

namespace ghost_cli {
namespace {

enum class Kind { kReal, kInteger, kSeed };

struct Field {
  const char* name;
  Kind kind;
  const char* range;  // as the sentence gives it
};

constexpr Field kFields[] = {
    {"temp", Kind::kReal, "in 0..100"},
    {"top-k", Kind::kInteger, "in 0..256"},
    {"top-p", Kind::kReal, "in (0, 1]"},
    {"min-p", Kind::kReal, "in 0..1"},
    {"seed", Kind::kSeed, "in 0..2^64-1"},
    {"max-bytes", Kind::kInteger, "zero or more"},
    {"threads", Kind::kInteger, "in 1..256"},
    {"repeats", Kind::kInteger, "in 1..1000"},
    {"prompts", Kind::kInteger, "in 1..100000"},
};
constexpr size_t kSamplingFields = 6;

const Field* find_field(const std::string& name) {
  for (const Field& field : kFields) {
    if (name == field.name) return &field;
  }
  return nullptr;
}

// Decimal numbers only: strtod would also take "nan", "inf", hexadecimal and leading space.
bool decimal(const std::string& text, bool real) {
  const char* extra = real ? "+-.eE" : "+-";
  for (const char c : text) {
    if ((c < '0' || c > '9') && std::string(extra).find(c) == std::string::npos) return false;
  }
  return !text.empty();
}

bool parse_real(const std::string& text, double* value) {
  if (!decimal(text, true)) return false;
  char* end = nullptr;
  *value = std::strtod(text.c_str(), &end);
  return *end == '\0';
}

bool parse_integer(const std::string& text, long long* value) {
  if (!decimal(text, false)) return false;
  char* end = nullptr;
  *value = std::strtoll(text.c_str(), &end, 10);  // what is out of range saturates, and fails the field's check
  return *end == '\0';
}

// Whether the value is in the field's range; sets it. The doubles are rounded to float once, as in the reference.
bool set_real(const std::string& name, double value, ghost_sampling* sampling) {
  float* to = name == "temp" ? &sampling->temp : name == "top-p" ? &sampling->top_p : &sampling->min_p;
  const bool fits = name == "temp" ? value >= 0 && value <= 100 : value >= 0 && value <= 1;
  if (!fits || (name == "top-p" && value == 0)) return false;
  *to = static_cast<float>(value);
  return true;
}

bool set_integer(const std::string& name, long long value, Settings* settings) {
  struct Target {
    const char* name;
    int* to;
    int low, high;
  };
  if (name == "max-bytes") {
    settings->max_bytes = value;
    return value >= 0;
  }
  const Target targets[] = {{"top-k", &settings->sampling.top_k, 0, GHOST_VOCABULARY},
                            {"threads", &settings->threads, 1, GHOST_MOST_THREADS},
                            {"repeats", &settings->repeats, 1, 1000},
                            {"prompts", &settings->prompts, 1, 100000}};
  for (const Target& target : targets) {
    if (name != target.name) continue;
    if (value < target.low || value > target.high) return false;
    *target.to = static_cast<int>(value);
  }
  if (name == "threads") settings->threads_given = true;
  return true;
}

bool set_seed(const std::string& value, uint64_t* seed) {
  if (value[0] == '-') return false;
  errno = 0;
  *seed = std::strtoull(value.c_str(), nullptr, 10);
  return errno == 0;
}

std::string dashed(std::string name) {
  for (char& c : name) c = c == '_' ? '-' : c;
  return name;
}

// Sets a switch or a text; false if there is none of the name.
bool set_switch(const std::string& name, Settings* settings) {
  bool* to = name == "stream"  ? &settings->stream
             : name == "raw"   ? &settings->raw
             : name == "stdin" ? &settings->from_stdin
             : name == "json"  ? &settings->json
                               : nullptr;
  if (to != nullptr) *to = true;
  return to != nullptr;
}

bool among(const std::string& name, const std::vector<std::string>& names) {
  for (const std::string& each : names) {
    if (name == each) return true;
  }
  return false;
}

}  // namespace

std::string set_number(const std::string& given, const std::string& value, Settings* settings) {
  const std::string name = dashed(given);
  const Field* field = find_field(name);
  double real = 0;
  long long integer = 0;
  const bool number = field->kind == Kind::kReal ? parse_real(value, &real) : parse_integer(value, &integer);
  if (!number) {
    return name + " needs " + (field->kind == Kind::kReal ? "a number" : "a whole number") + ", got '" + value + "'.";
  }
  Settings changed = *settings;
  const bool fits = field->kind == Kind::kReal   ? set_real(name, real, &changed.sampling)
                    : field->kind == Kind::kSeed ? set_seed(value, &changed.sampling.seed)
                                                 : set_integer(name, integer, &changed);
  if (!fits) return name + " must be " + field->range + ", got " + value + ".";
  *settings = changed;
  return "";
}

std::string show_sampling(const Settings& settings) {
  const ghost_sampling& s = settings.sampling;
  return format("max-bytes %lld  min-p %g  seed %llu  temp %g  top-k %d  top-p %g\n", settings.max_bytes,
                static_cast<double>(s.min_p), static_cast<unsigned long long>(s.seed), static_cast<double>(s.temp),
                s.top_k, static_cast<double>(s.top_p));
}

std::string parse_arguments(int count, char** words, const std::vector<std::string>& allowed, Arguments* out) {
  bool flags = true;
  for (int i = 0; i < count; ++i) {
    const std::string word = words[i];
    if (!flags || word.size() < 2 || word[0] != '-') {
      out->positional.push_back(word);
      continue;
    }
    if (word == "--") {
      flags = false;
      continue;
    }
    if (word == "-h" || word == "--help") {
      out->help = true;
      continue;
    }
    const size_t equals = word.find('=');
    const std::string flag = word.substr(0, equals);
    const std::string name = flag.size() > 2 && flag[1] == '-' ? flag.substr(2) : "";
    if (!among(name, allowed)) return "There is no flag " + flag + " here; see `ghost-run --help`.";
    if (equals == std::string::npos && set_switch(name, &out->settings)) continue;
    if (equals == std::string::npos && i + 1 == count) return flag + " needs a value.";
    const std::string value = equals == std::string::npos ? words[++i] : word.substr(equals + 1);
    if (name == "level") {
      out->settings.level = value;
    } else if (find_field(name) == nullptr) {
      return flag + " takes no value.";
    } else if (const std::string wrong = set_number(name, value, &out->settings); !wrong.empty()) {
      return "--" + wrong;
    }
  }
  return "";
}

bool is_sampling_field(const std::string& given) {
  const Field* field = find_field(dashed(given));
  return field != nullptr && static_cast<size_t>(field - kFields) < kSamplingFields;
}

}  // namespace ghost_cli
