// ghost-run: a packed model without Python. Everything goes through ext/capi/ghost.h.
#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <new>

#include "arguments.h"
#include "output.h"
#include "session.h"
#include "verbs.h"

namespace ghost_cli {
namespace {

constexpr char kHelp[] =
    R"(usage: ghost-run FILE.ghost [PROMPT] [flags]   answer PROMPT; without it every line of the input is a question
       ghost-run bench FILE.ghost [flags]      measure speed and memory
       ghost-run check FILE.ghost [flags]      is the file sound, and are the bits the same at every level?
       ghost-run info FILE.ghost [flags]       show what the file holds, and the level that runs it

Runs a packed model (made by `ghost pack`) without Python. Without PROMPT: an interactive session on a terminal (/help
shows its commands), one answer a line otherwise. By default greedy. A file named like a verb: ./bench

answering:
  --max-bytes N  stop after this many bytes (default 256)
  --temp X       temperature; 0 takes the most probable byte (default 0)
  --top-k N      keep the k most probable bytes; 0 keeps all (default 0)
  --top-p X      keep the smallest set of bytes whose probability reaches p (default 1)
  --min-p X      drop bytes below this share of the most probable byte's probability (default 0)
  --seed N       seed of the counter-based generator (default 0); the same text as `ghost run` on every machine
  --stream       print while the answer is being made
  --raw          continue PROMPT as plain text instead of answering it
  --stdin        the prompt is all of standard input, of any length, read as it comes

every verb:
  --threads N    1..256 (default 1; the answer never depends on it)
  --level NAME   instruction set (default: GHOST_ISA from the environment, or the best this CPU has)

bench, info:  --json       print one JSON document
bench:        --repeats N  of each measurement, after a warm-up (default 7)
check:        --prompts N  random prompts of 1 to 64 bytes (default 16)

  -h, --help     show this help
  -V, --version  show the version

examples:
  ghost-run qa20.ghost "list pods"
  ghost-run qa20.ghost < questions.txt
  ghost-run play.ghost "To be" --raw --stream --temp 0.8 --top-p 0.95 --seed 1
  ghost-run play.ghost --stdin --raw < first_act.txt
  ghost-run check qa20.ghost

exit code: 0 done, 1 check found a difference, 2 bad input (one sentence on stderr), 141 the reader left
)";

struct Verb {
  const char* name;
  int (*report)(const std::string& path, const Settings& settings);
  std::vector<std::string> flags;
};

int report(const Verb& verb, int count, char** words) {
  Arguments arguments;
  if (std::string wrong = parse_arguments(count, words, verb.flags, &arguments); !wrong.empty()) return complain(wrong);
  if (arguments.help) return print(kHelp), kDone;
  if (arguments.positional.size() != 1) {
    return complain(std::string("ghost-run ") + verb.name + " needs one file; see `ghost-run --help`.");
  }
  return verb.report(arguments.positional[0], arguments.settings);
}

int answer(int count, char** words) {
  Arguments arguments;
  const std::vector<std::string> flags = {"max-bytes", "temp",  "top-k",  "top-p",   "min-p", "seed",
                                          "stream",    "raw",   "stdin",  "threads", "level"};
  if (std::string wrong = parse_arguments(count, words, flags, &arguments); !wrong.empty()) return complain(wrong);
  if (arguments.help) return print(kHelp), kDone;
  const std::vector<std::string>& given = arguments.positional;
  if (given.empty()) return complain("Name a packed model file; see `ghost-run --help`.");
  if (given.size() > 2) return complain("Put the prompt in quotes: it is one argument; see `ghost-run --help`.");
  return run(given[0], given.size() == 2 ? &given[1] : nullptr, arguments.settings);
}

int dispatch(int count, char** words) {
  const Verb verbs[] = {{"bench", bench, {"threads", "level", "json", "repeats"}},
                        {"check", check, {"threads", "level", "prompts"}},
                        {"info", info, {"threads", "level", "json"}}};
  if (count == 0) return print(kHelp), kDone;
  if (std::strcmp(words[0], "-V") == 0 || std::strcmp(words[0], "--version") == 0) {
    return print(std::string("ghost-run ") + ghost_version() + "\n"), kDone;
  }
  for (const Verb& verb : verbs) {
    if (std::strcmp(words[0], verb.name) == 0) return report(verb, count - 1, words + 1);
  }
  return answer(count, words);
}

// Standard streams that the caller has closed must not become the model's file.
void open_standard_streams() {
  for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; ++stream) {
    if (fcntl(stream, F_GETFD) == -1) open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  }
}

}  // namespace
}  // namespace ghost_cli

#ifdef __GLIBCXX__
// What the C++ library calls when it cannot go on. Its own prints a name, for which a static program holds a demangler.
void __gnu_cxx::__verbose_terminate_handler() { _exit(ghost_cli::complain("The C++ library gave up; report this.")); }
#endif

int main(int argc, char** argv) {
  std::set_new_handler([] { _exit(ghost_cli::complain("There is not enough memory.")); });
  ghost_cli::open_standard_streams();
  std::signal(SIGPIPE, SIG_IGN);  // print() reports it
  return ghost_cli::dispatch(argc - 1, argv + 1);
}
