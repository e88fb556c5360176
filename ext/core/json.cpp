#include "json.h"

#include <locale.h>
#include <stdlib.h>
#ifdef __APPLE__
#include <xlocale.h>
#endif

#include <algorithm>
#include <cmath>
#include <utility>

namespace ghost {
namespace {

class Parser {
 public:
  Parser(std::string_view text, const JsonLimits& limits) : text_(text), limits_(limits) {}

  bool document(Json& out) {
    if (text_.size() > limits_.bytes) return fail("the text is too long");
    skip_space();
    if (!value(out, 0)) return false;
    skip_space();
    return at_ == text_.size() || fail("something follows the value");
  }

  Status status() const {
    return Status::error(std::string(error_) + " at byte " + std::to_string(at_));
  }

 private:
  bool fail(const char* error) {
    error_ = error;
    return false;
  }

  // The byte at the cursor, or -1 at the end.
  int peek() const { return at_ < text_.size() ? static_cast<unsigned char>(text_[at_]) : -1; }

  bool accept(char expected) {
    if (peek() != static_cast<unsigned char>(expected)) return false;
    ++at_;
    return true;
  }

  void skip_space() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++at_;
  }

  bool literal(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return fail("there is no value");
    at_ += word.size();
    return true;
  }

  bool value(Json& out, size_t depth) {
    if (depth > limits_.depth) return fail("the nesting is too deep");
    if (++values_ > limits_.values) return fail("there are too many values");
    switch (peek()) {
      case '{': return object(out, depth);
      case '[': return array(out, depth);
      case '"': out.kind = Json::Kind::String; return string(out.string);
      case 't': out.kind = Json::Kind::Bool; out.boolean = true; return literal("true");
      case 'f': out.kind = Json::Kind::Bool; return literal("false");
      case 'n': return literal("null");
      default: return number(out);
    }
  }

  bool array(Json& out, size_t depth) {
    out.kind = Json::Kind::Array;
    ++at_;
    skip_space();
    if (accept(']')) return true;
    for (;;) {
      out.items.emplace_back();
      if (!value(out.items.back(), depth + 1)) return false;
      skip_space();
      if (accept(']')) return true;
      if (!accept(',')) return fail("a comma or ] is missing");
      skip_space();
    }
  }

  bool object(Json& out, size_t depth) {
    out.kind = Json::Kind::Object;
    ++at_;
    skip_space();
    if (accept('}')) return true;
    for (;;) {
      out.keys.emplace_back();
      if (peek() != '"') return fail("a key is missing");
      if (!string(out.keys.back())) return false;
      skip_space();
      if (!accept(':')) return fail("a colon is missing");
      skip_space();
      out.items.emplace_back();
      if (!value(out.items.back(), depth + 1)) return false;
      skip_space();
      if (accept('}')) return different(out.keys);
      if (!accept(',')) return fail("a comma or } is missing");
      skip_space();
    }
  }

  bool different(const std::vector<std::string>& keys) {
    std::vector<std::string_view> sorted(keys.begin(), keys.end());
    std::sort(sorted.begin(), sorted.end());
    return std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end() || fail("a key occurs twice");
  }

  bool number(Json& out) {
    const size_t start = at_;
    bool whole = true;
    accept('-');
    if (!accept('0') && !digits()) return fail("there is no value");
    if (accept('.')) {
      whole = false;
      if (!digits()) return fail("a number has no digits after the point");
    }
    if (peek() == 'e' || peek() == 'E') {
      whole = false;
      ++at_;
      if (!accept('+')) accept('-');
      if (!digits()) return fail("a number has no exponent");
    }
    const std::string_view token = text_.substr(start, at_ - start);
    return whole && token != "-0" ? integer(token, out) : real(token, out);
  }

  bool digits() {
    const size_t start = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    return at_ > start;
  }

  bool integer(std::string_view token, Json& out) {
    const bool negative = token[0] == '-';
    if (negative) token.remove_prefix(1);
    const uint64_t largest = static_cast<uint64_t>(INT64_MAX) + (negative ? 1 : 0);
    uint64_t magnitude = 0;
    for (const char c : token) {
      const uint64_t digit = static_cast<uint64_t>(c - '0');
      if (magnitude > (largest - digit) / 10) return fail("an integer is too large");
      magnitude = magnitude * 10 + digit;
    }
    out.kind = Json::Kind::Integer;
    // Negated in parts: the magnitude of INT64_MIN is no int64.
    out.integer = negative && magnitude > 0 ? -static_cast<int64_t>(magnitude - 1) - 1
                                            : static_cast<int64_t>(magnitude);
    return true;
  }

  bool real(std::string_view token, Json& out) {
    // The point is a point in every locale. A C++ stream would do, for half a megabyte of a program.
    const locale_t plain = newlocale(LC_ALL_MASK, "C", nullptr);
    if (plain == nullptr) return fail("there is not enough memory");
    out.kind = Json::Kind::Double;
    out.number = strtod_l(std::string(token).c_str(), nullptr, plain);
    freelocale(plain);
    return std::abs(out.number) < HUGE_VAL || fail("a number is too large");
  }

  bool string(std::string& out) {
    ++at_;
    for (;;) {
      const int c = peek();
      if (c < 0) return fail("a string does not end");
      if (c < 0x20) return fail("a string holds a control character");
      if (c == '"') {
        ++at_;
        return true;
      }
      if (c == '\\') {
        if (!escape(out)) return false;
      } else if (c < 0x80) {
        out.push_back(static_cast<char>(c));
        ++at_;
      } else if (!multibyte(out)) {
        return false;
      }
    }
  }

  bool escape(std::string& out) {
    ++at_;
    const int c = peek();
    ++at_;
    switch (c) {
      case '"': case '\\': case '/': out.push_back(static_cast<char>(c)); return true;
      case 'b': out.push_back('\b'); return true;
      case 'f': out.push_back('\f'); return true;
      case 'n': out.push_back('\n'); return true;
      case 'r': out.push_back('\r'); return true;
      case 't': out.push_back('\t'); return true;
      case 'u': return unicode_escape(out);
      default: return fail("a string holds an unknown escape");
    }
  }

  bool unicode_escape(std::string& out) {
    uint32_t code = 0;
    if (!hex4(code)) return fail("\\u needs four hex digits");
    if (code >= 0xDC00 && code < 0xE000) return fail("a surrogate stands alone");
    if (code >= 0xD800 && code < 0xDC00) {
      uint32_t low = 0;
      if (!accept('\\') || !accept('u') || !hex4(low) || low < 0xDC00 || low >= 0xE000) {
        return fail("a surrogate stands alone");
      }
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    append_utf8(code, out);
    return true;
  }

  bool hex4(uint32_t& code) {
    code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const int c = peek();
      if (c >= '0' && c <= '9') code = code << 4 | static_cast<uint32_t>(c - '0');
      else if (c >= 'a' && c <= 'f') code = code << 4 | static_cast<uint32_t>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F') code = code << 4 | static_cast<uint32_t>(c - 'A' + 10);
      else return false;
    }
    return true;
  }

  static void append_utf8(uint32_t code, std::string& out) {
    const auto put = [&out](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xC0 | code >> 6);
      put(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      put(0xE0 | code >> 12);
      put(0x80 | (code >> 6 & 0x3F));
      put(0x80 | (code & 0x3F));
    } else {
      put(0xF0 | code >> 18);
      put(0x80 | (code >> 12 & 0x3F));
      put(0x80 | (code >> 6 & 0x3F));
      put(0x80 | (code & 0x3F));
    }
  }

  // One character of two to four bytes: shortest form, no surrogates, at most U+10FFFF.
  bool multibyte(std::string& out) {
    const int lead = peek();
    const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC2 || lead > 0xF4 || text_.size() - at_ < length) return fail("the text is not UTF-8");
    uint32_t code = static_cast<uint32_t>(lead) & (0x7Fu >> length);
    for (size_t i = 1; i < length; ++i) {
      const uint32_t next = static_cast<unsigned char>(text_[at_ + i]);
      if ((next & 0xC0) != 0x80) return fail("the text is not UTF-8");
      code = code << 6 | (next & 0x3F);
    }
    const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
    if (overlong || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return fail("the text is not UTF-8");
    out.append(text_.substr(at_, length));
    at_ += length;
    return true;
  }

  std::string_view text_;
  const JsonLimits& limits_;
  size_t at_ = 0;
  size_t values_ = 0;
  const char* error_ = "";
};

}  // namespace

const Json* Json::find(std::string_view key) const {
  for (size_t i = 0; i < keys.size(); ++i) {
    if (keys[i] == key) return &items[i];
  }
  return nullptr;
}

Result<Json> parse_json(std::string_view text, const JsonLimits& limits) {
  Parser parser(text, limits);
  Json value;
  if (!parser.document(value)) return parser.status();
  return value;
}

}  // namespace ghost
