// A small strict JSON parser (RFC 8259) for file headers and configs: checked UTF-8, no duplicate keys, limited
// depth and number of values, safe on hostile bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "status.h"

namespace ghost {

struct JsonLimits {
  size_t bytes = size_t{1} << 20;
  size_t depth = 16;
  size_t values = 200000;  // keys are not counted
};

struct Json {
  enum class Kind { Null, Bool, Integer, Double, String, Array, Object };

  Kind kind = Kind::Null;
  bool boolean = false;
  int64_t integer = 0;            // whole numbers without fraction or exponent; -0 is a Double
  double number = 0;              // all other numbers, always finite
  std::string string;             // UTF-8, may hold NUL
  std::vector<Json> items;        // of an array, or the values of an object
  std::vector<std::string> keys;  // of an object, in the order of the text, all different

  bool is(Kind k) const { return kind == k; }
  // The value under `key` of an object, or nullptr.
  const Json* find(std::string_view key) const;
};

// The value that is the whole of `text` (white space around it is allowed).
Result<Json> parse_json(std::string_view text, const JsonLimits& limits = {});

}  // namespace ghost
