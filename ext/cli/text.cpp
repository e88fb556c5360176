#include "text.h"

#include <cstdio>

namespace ghost_cli {
namespace {

constexpr uint8_t kFirstReserved = 0xF8;
constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

std::string at_offset(const char* form, uint8_t byte, size_t offset) {
  char text[240];
  std::snprintf(text, sizeof text, form, static_cast<unsigned>(byte), offset);
  return text;
}

std::string reserved(uint8_t byte, size_t offset) {
  return at_offset("The prompt holds the reserved control byte 0x%02X at offset %zu; it must be UTF-8 text, which "
                   "never holds the bytes 0xF8 to 0xFF.", byte, offset);
}

}  // namespace

// The well-formed sequences of the Unicode standard, table 3-7.
Character::Step Character::take(uint8_t byte) {
  if (missing_ > 0) {
    if (byte < lowest_ || byte > highest_) return kBroken;
    lowest_ = 0x80;
    highest_ = 0xBF;
    bytes_[size_++] = static_cast<char>(byte);
    return --missing_ == 0 ? kComplete : kMore;
  }
  bytes_[0] = static_cast<char>(byte);
  size_ = 1;
  if (byte < 0x80) return kComplete;
  if (byte < 0xC2 || byte > 0xF4) return kBroken;
  missing_ = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
  lowest_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
  highest_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
  return kMore;
}

std::string PromptCheck::not_utf8(size_t offset, uint8_t byte) const {
  return at_offset("The prompt is not UTF-8: the byte 0x%02X at offset %zu does not belong there; save it as UTF-8.",
                   byte, offset);
}

std::string PromptCheck::feed(const uint8_t* bytes, size_t n) {
  for (size_t i = 0; i < n; ++i, ++offset_) {
    if (bytes[i] >= kFirstReserved) return reserved(bytes[i], offset_);
    if (!character_.unfinished()) {
      first_ = bytes[i];
      start_ = offset_;
    }
    if (character_.take(bytes[i]) == Character::kBroken) return not_utf8(start_, first_);
  }
  return "";
}

std::string PromptCheck::finish() {
  if (offset_ == 0) return "The prompt is empty; give at least one byte.";
  return character_.unfinished() ? not_utf8(start_, first_) : "";
}

std::string check_prompt(const std::string& prompt) {
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(prompt.data());
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (bytes[i] >= kFirstReserved) return reserved(bytes[i], i);
  }
  PromptCheck check;
  const std::string wrong = check.feed(bytes, prompt.size());
  return wrong.empty() ? check.finish() : wrong;
}

std::string Utf8Stream::feed(uint8_t byte) {
  std::string text;
  for (;;) {
    const bool unfinished = character_.unfinished();
    const Character::Step step = character_.take(byte);
    if (step == Character::kMore) return text;
    text += step == Character::kComplete ? std::string(character_.bytes(), character_.size()) : kReplacement;
    character_.clear();
    // A byte that breaks a character off may begin the next one.
    if (step == Character::kComplete || !unfinished) return text;
  }
}

std::string Utf8Stream::flush() {
  const bool unfinished = character_.unfinished();
  character_.clear();
  return unfinished ? kReplacement : "";
}

std::string readable(const std::string& bytes) {
  Utf8Stream stream;
  std::string text;
  for (const char byte : bytes) text += stream.feed(static_cast<uint8_t>(byte));
  return text + stream.flush();
}

}  // namespace ghost_cli
