#include "output.h"

#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "text.h"

namespace ghost_cli {

std::string format(const char* form, ...) {
  va_list arguments, again;
  va_start(arguments, form);
  va_copy(again, arguments);
  const int size = std::vsnprintf(nullptr, 0, form, arguments);
  std::string text(size > 0 ? static_cast<size_t>(size) + 1 : 1, '\0');
  std::vsnprintf(&text[0], text.size(), form, again);
  va_end(again);
  va_end(arguments);
  text.pop_back();
  return text;
}

std::string with_commas(uint64_t value) {
  std::string text = std::to_string(value);
  for (size_t at = text.size(); at > 3;) text.insert(at -= 3, ",");
  return text;
}

int complain(const std::string& sentence) {
  const std::string line = "ghost-run: " + readable(sentence) + "\n";
  for (size_t done = 0; done < line.size();) {
    const ssize_t wrote = write(STDERR_FILENO, line.data() + done, line.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) break;
    done += static_cast<size_t>(wrote);
  }
  return kBadInput;
}

void print(const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t wrote = write(STDOUT_FILENO, text.data() + done, text.size() - done);
    if (wrote >= 0) {
      done += static_cast<size_t>(wrote);
    } else if (errno == EPIPE) {
      _exit(kReaderLeft);
    } else if (errno != EINTR) {
      const char* reason = errno == ENOSPC ? "no space is left on the disk; free some and try again" : strerror(errno);
      _exit(complain(std::string("Cannot write to standard output: ") + reason + "."));
    }
  }
}

}  // namespace ghost_cli
