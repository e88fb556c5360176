#include "session.h"

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "output.h"
#include "text.h"

namespace ghost_cli {
namespace {

constexpr char kHelp[] =
    "  /temp N        temperature; 0 takes the most probable byte\n"
    "  /top-k N       keep the k most probable bytes; 0 keeps all\n"
    "  /top-p N       keep the smallest set of bytes whose probability reaches p\n"
    "  /min-p N       drop bytes below this share of the most probable byte's probability\n"
    "  /seed N        seed of the counter-based generator\n"
    "  /max-bytes N   stop after this many bytes\n"
    "  /settings      show these values\n"
    "  /reset         the values the session started with\n"
    "  /help          this help\n"
    "  /exit          end the session (also /quit or Ctrl-D)\n";
constexpr char kSpaces[] = " \t\n\v\f\r";

volatile std::sig_atomic_t interrupted = 0;  // by Ctrl-C, on a terminal

std::string strip(const std::string& text) {
  const size_t first = text.find_first_not_of(kSpaces);
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(kSpaces) - first + 1);
}

// The text of an answer while it is made.
struct Answer {
  Utf8Stream decoder;
  std::string text;
  bool stream;

  void add(const std::string& piece) {
    if (!stream) {
      text += piece;
    } else if (!piece.empty()) {
      print(piece);
    }
  }
  static int take(void* context, uint8_t byte) {
    Answer& answer = *static_cast<Answer*>(context);
    answer.add(answer.decoder.feed(byte));
    return interrupted;
  }
};

// Reads `prompt` and prints the answer and a line end; the state may have read something before.
std::string answer(ghost_state* state, const std::string& prompt, const Settings& settings) {
  Answer to{{}, "", settings.stream};
  ghost_error error;
  if (ghost_generate(state, reinterpret_cast<const uint8_t*>(prompt.data()), prompt.size(), &settings.sampling,
                     static_cast<size_t>(settings.max_bytes), Answer::take, &to, nullptr, &error) != GHOST_OK) {
    return error.text;
  }
  to.add(to.decoder.flush());
  print(to.text + "\n");
  return "";
}

std::string answer_prompt(const ModelHandle& model, StateHandle* state, const std::string& prompt,
                          const Settings& settings) {
  if (std::string wrong = check_prompt(prompt); !wrong.empty()) return wrong;
  if (std::string wrong = fresh_state(model, state); !wrong.empty()) return wrong;
  return answer(state->get(), settings.raw ? prompt : prompt + static_cast<char>(GHOST_SEP), settings);
}

// Lines of standard input, as they come.
class Lines {
 public:
  // False at the end of the input, or when a signal came before a line did.
  bool next(std::string* line) {
    for (;;) {
      const size_t end = buffer_.find('\n', searched_);
      if (end != std::string::npos) {
        *line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        searched_ = 0;
        return true;
      }
      searched_ = buffer_.size();
      char more[4096];
      const ssize_t got = read(STDIN_FILENO, more, sizeof more);
      if (got < 0 && errno == EINTR && !interrupted) continue;
      if (got > 0) {
        buffer_.append(more, static_cast<size_t>(got));
        continue;
      }
      if (got < 0 && !interrupted) wrong_ = std::string("Cannot read standard input: ") + strerror(errno) + ".";
      if (got < 0 || buffer_.empty()) return false;
      line->swap(buffer_);  // the last line has no end
      buffer_.clear();
      searched_ = 0;
      return true;
    }
  }
  // "" or why the input could not be read to its end.
  const std::string& wrong() const { return wrong_; }
  void forget() { buffer_.clear(), searched_ = 0; }

 private:
  std::string buffer_, wrong_;
  size_t searched_ = 0;
};

// Every line is a question of its own, with a fresh state; lines that start with / are commands.
class Session {
 public:
  Session(const ModelHandle& model, const Settings& settings) : model_(model), first_(settings), settings_(settings) {}

  // Obeys or answers a line; "" or the sentence. Blank lines do nothing.
  std::string obey(std::string line, bool* ended) {
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
    if (strip(line).empty()) return "";
    if (line[0] != '/') return answer_prompt(model_, &state_, line, settings_);
    const std::string command = strip(line.substr(1));
    const size_t space = command.find(' ');
    const std::string name = command.substr(0, space);
    if (name == "exit" || name == "quit") {
      *ended = true;
    } else if (name == "help") {
      print(kHelp);
    } else if (name == "settings") {
      print(show_sampling(settings_));
    } else if (name == "reset") {
      settings_ = first_;
    } else if (is_sampling_field(name)) {
      const std::string wrong =
          set_number(name, space == std::string::npos ? "" : strip(command.substr(space)), &settings_);
      return wrong.empty() ? "" : "/" + wrong;
    } else {
      return "There is no command /" + name + "; /help shows the commands.";
    }
    return "";
  }

 private:
  const ModelHandle& model_;
  StateHandle state_;  // of all answers, one after the other
  const Settings first_;
  Settings settings_;
};

int answer_lines(const ModelHandle& model, const Settings& settings) {
  Session session(model, settings);
  Lines lines;
  std::string line;
  int code = kDone;
  bool ended = false;
  for (int number = 1; !ended && lines.next(&line); ++number) {
    const std::string wrong = session.obey(line, &ended);
    if (!wrong.empty()) code = complain("line " + std::to_string(number) + ": " + wrong);
  }
  return lines.wrong().empty() ? code : complain(lines.wrong());
}

// Until /exit or the end of the input; Ctrl-C stops an answer, not the session.
int interact(const ModelHandle& model, const std::string& path, Settings settings) {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted = 1; };
  sigaction(SIGINT, &action, nullptr);  // without SA_RESTART: it ends the wait for a line
  settings.stream = true;
  print(path + " (" + ghost_get_info(model.get()).level + "). Ask something; /help shows the commands, Ctrl-D ends.\n");
  Session session(model, settings);
  Lines lines;
  std::string line;
  bool ended = false;
  while (!ended) {
    interrupted = 0;
    print("> ");
    if (lines.next(&line)) {
      const std::string wrong = session.obey(line, &ended);
      if (!wrong.empty()) complain(wrong);
    } else {
      print("\n");
      ended = interrupted == 0;
      lines.forget();
    }
  }
  return kDone;
}

// The prompt is all of standard input: the model reads it as it comes, so it may be of any length.
int answer_stdin(const ModelHandle& model, const Settings& settings) {
  StateHandle state;
  if (std::string wrong = fresh_state(model, &state); !wrong.empty()) return complain(wrong);
  PromptCheck check;
  std::string held;  // the last byte read: generation needs one to start from
  ghost_error error;
  for (;;) {
    char bytes[4096];
    const ssize_t got = read(STDIN_FILENO, bytes, sizeof bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return complain(std::string("Cannot read standard input: ") + strerror(errno) + ".");
    if (got == 0) break;
    const size_t n = static_cast<size_t>(got);
    if (std::string wrong = check.feed(reinterpret_cast<const uint8_t*>(bytes), n); !wrong.empty()) {
      return complain(wrong);
    }
    held.append(bytes, n);
    if (held.size() < 2) continue;
    if (ghost_feed(state.get(), reinterpret_cast<const uint8_t*>(held.data()), held.size() - 1, nullptr, &error) !=
        GHOST_OK) {
      return complain(error.text);
    }
    held.erase(0, held.size() - 1);
  }
  if (std::string wrong = check.finish(); !wrong.empty()) return complain(wrong);
  if (!settings.raw) held += static_cast<char>(GHOST_SEP);
  const std::string wrong = answer(state.get(), held, settings);
  return wrong.empty() ? kDone : complain(wrong);
}

}  // namespace

int run(const std::string& path, const std::string* prompt, const Settings& settings) {
  if (prompt != nullptr && settings.from_stdin) return complain("Give either PROMPT or --stdin, not both.");
  ModelHandle model;
  if (std::string wrong = load(path, settings.threads, settings.level, &model); !wrong.empty()) return complain(wrong);
  if (prompt != nullptr) {
    StateHandle state;
    const std::string wrong = answer_prompt(model, &state, *prompt, settings);
    return wrong.empty() ? kDone : complain(wrong);
  }
  if (settings.from_stdin) return answer_stdin(model, settings);
  return isatty(STDIN_FILENO) ? interact(model, path, settings) : answer_lines(model, settings);
}

}  // namespace ghost_cli
