// UTF-8: what a prompt may hold, and bytes to text while they arrive. The twin of check_bytes in ghost_ref/data.py and of
// ghost_ref/text_stream.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace ghost_cli {

// The bytes of one character while they arrive. Every function of a byte says what the byte makes of it.
class Character {
 public:
  enum Step { kMore, kComplete, kBroken };  // kBroken: the byte does not belong to what came before

  Step take(uint8_t byte);
  // Forgets an unfinished character.
  void clear() { missing_ = size_ = 0; }
  bool unfinished() const { return missing_ > 0; }
  const char* bytes() const { return bytes_; }
  size_t size() const { return size_; }  // bytes of the character, also of an unfinished one

 private:
  char bytes_[4];
  size_t size_ = 0;
  int missing_ = 0;
  uint8_t lowest_ = 0x80, highest_ = 0xBF;  // of the next byte
};

// Refuses reserved bytes and what is not UTF-8, piece by piece.
class PromptCheck {
 public:
  // "" or the sentence for the first byte that a prompt must not hold.
  std::string feed(const uint8_t* bytes, size_t n);
  // "" or the sentence for an empty prompt or one that ends within a character.
  std::string finish();

 private:
  std::string not_utf8(size_t offset, uint8_t byte) const;

  Character character_;
  uint8_t first_ = 0;  // byte of the unfinished character
  size_t start_ = 0;   // its offset
  size_t offset_ = 0;
};

// "" or why these bytes are no prompt: reserved bytes before bad UTF-8, wherever they are.
std::string check_prompt(const std::string& prompt);

// Text for printing: no piece holds half a character, and what is not UTF-8 becomes U+FFFD as in Python's
// bytes.decode("utf-8", "replace").
class Utf8Stream {
 public:
  std::string feed(uint8_t byte);
  std::string flush();

 private:
  Character character_;
};

// All of `bytes` as such text.
std::string readable(const std::string& bytes);

}  // namespace ghost_cli
