#include "config.h"

#include "json.h"

namespace ghost {
namespace {

struct SizeField {
  const char* name;
  int Config::*member;
  int least, largest;
};

constexpr SizeField kSizes[] = {
    {"d_model", &Config::d_model, 1, 16384},
    {"n_layers", &Config::n_layers, 1, 1024},
    {"d_state", &Config::d_state, 1, 256},
    {"d_conv", &Config::d_conv, 2, 16},
    {"expand", &Config::expand, 1, 8},
    {"dt_rank", &Config::dt_rank, 1, 4096},
    {"d_ff", &Config::d_ff, 0, 65536},
    {"codebook_group", &Config::codebook_group, 16, 65536},
    {"n_heads", &Config::n_heads, 1, 256},
    {"attention_stride", &Config::attention_stride, 1, 1 << 20},
    {"attention_slots", &Config::attention_slots, 1, 4096},
    {"memory_capacity", &Config::memory_capacity, 1, 1 << 20},
};

struct NumberField {
  const char* name;
  double Config::*member;
};

constexpr NumberField kNumbers[] = {
    {"mod_capacity", &Config::mod_capacity},
    {"surprise_threshold", &Config::surprise_threshold},
};

struct LayersField {
  const char* name;
  std::vector<int> Config::*member;
  int first;  // the first layer that may have the feature: layer 0 is never routed
};

constexpr LayersField kLayers[] = {
    {"attention_layers", &Config::attention_layers, 0}, {"memory_layers", &Config::memory_layers, 0},
    {"mod_layers", &Config::mod_layers, 1},             {"depth_layers", &Config::depth_layers, 1},
    {"surprise_layers", &Config::surprise_layers, 1},
};

Status bad(const std::string& name, const std::string& expected) {
  return Status::error("config field " + name + " must be " + expected);
}

// The value of a field, counted in `found`; nullptr when it is missing.
const Json* take(const Json& object, const char* name, size_t* found) {
  const Json* value = object.find(name);
  if (value != nullptr) ++*found;
  return value;
}

Status read_sizes(const Json& object, Config* config, size_t* found) {
  for (const SizeField& field : kSizes) {
    const Json* value = take(object, field.name, found);
    if (value == nullptr || !value->is(Json::Kind::Integer) || value->integer < field.least ||
        value->integer > field.largest) {
      return bad(field.name, "in " + std::to_string(field.least) + ".." + std::to_string(field.largest));
    }
    config->*field.member = static_cast<int>(value->integer);
  }
  return Status();
}

Status read_numbers(const Json& object, Config* config, size_t* found) {
  for (const NumberField& field : kNumbers) {
    const Json* value = take(object, field.name, found);
    if (value == nullptr || (!value->is(Json::Kind::Integer) && !value->is(Json::Kind::Double))) {
      return bad(field.name, "a number");
    }
    config->*field.member = value->is(Json::Kind::Integer) ? static_cast<double>(value->integer) : value->number;
  }
  return Status();
}

Status read_layers(const Json& object, Config* config, size_t* found) {
  for (const LayersField& field : kLayers) {
    const Json* value = take(object, field.name, found);
    const Status error = bad(field.name, "increasing layer indices in " + std::to_string(field.first) + ".." +
                                             std::to_string(config->n_layers - 1));
    if (value == nullptr || !value->is(Json::Kind::Array)) return error;
    int64_t next = field.first;
    for (const Json& item : value->items) {
      if (!item.is(Json::Kind::Integer) || item.integer < next || item.integer >= config->n_layers) return error;
      (config->*field.member).push_back(static_cast<int>(item.integer));
      next = item.integer + 1;
    }
  }
  return Status();
}

Status check_relations(const Config& config) {
  if (config.linear != "ternary") return bad("linear", "'ternary' in a packed model");
  if (config.codebook_group % 16 != 0) return bad("codebook_group", "a multiple of 16");
  if (config.d_model % config.n_heads != 0) return bad("n_heads", "a divisor of d_model");
  if (!(config.mod_capacity > 0 && config.mod_capacity <= 1)) return bad("mod_capacity", "in (0, 1]");
  if (!(config.surprise_threshold >= 0)) return bad("surprise_threshold", "zero or more");
  return Status();
}

}  // namespace

bool contains(const std::vector<int>& layers, int layer) {
  for (int i : layers) {
    if (i == layer) return true;
  }
  return false;
}

Status parse_config(const std::string& json, Config* config) {
  const Result<Json> parsed = parse_json(json);
  if (!parsed.ok()) return Status::error("the config is not JSON (" + parsed.status.message() + ")");
  const Json& object = parsed.value;
  if (!object.is(Json::Kind::Object)) return Status::error("the config is not a JSON object");
  size_t found = 0;
  if (Status status = read_sizes(object, config, &found); !status.ok()) return status;
  if (Status status = read_numbers(object, config, &found); !status.ok()) return status;
  if (Status status = read_layers(object, config, &found); !status.ok()) return status;
  const Json* linear = take(object, "linear", &found);
  if (linear == nullptr || !linear->is(Json::Kind::String)) return bad("linear", "a string");
  config->linear = linear->string;
  if (object.keys.size() != found) return Status::error("the config has fields that this version does not know");
  return check_relations(*config);
}

}  // namespace ghost
