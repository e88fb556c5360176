// What the program prints: standard output that notices a reader who has left, and sentences on standard error.
#pragma once

#include <cstdint>
#include <string>

namespace ghost_cli {

enum ExitCode { kDone = 0, kDifferent = 1, kBadInput = 2, kReaderLeft = 141 };

// printf into a string.
__attribute__((format(printf, 1, 2))) std::string format(const char* form, ...);

// 1234567 as 1,234,567.
std::string with_commas(uint64_t value);

// "ghost-run: SENTENCE" on standard error, as UTF-8 whatever bytes of the user's it quotes; returns kBadInput.
int complain(const std::string& sentence);

// Writes all of `text` to standard output at once. When that fails the process ends: with code 141 if the reader has
// left, else with code 2 and a sentence.
void print(const std::string& text);

}  // namespace ghost_cli
