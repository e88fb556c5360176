#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "model_handle.h"
#include "output.h"
#include "verbs.h"

namespace ghost_cli {
namespace {

// As `ghost bench` measures, on the same text.
constexpr size_t kPrefill = 1024, kDecode = 256, kPrompt = 64;
constexpr char kText[] =
    "The quick brown fox jumps over the lazy dog, 0123456789 times; list pods, then kubectl get pods. ";

std::vector<uint8_t> text_of(size_t length) {
  std::vector<uint8_t> text(length);
  for (size_t i = 0; i < length; ++i) text[i] = static_cast<uint8_t>(kText[i % (sizeof kText - 1)]);
  return text;
}

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Spread {
  double median, lowest, highest;
};

// What a measuring process hands back, as bytes through a pipe.
struct Measured {
  double load;
  Spread prefill, decode, first_byte;
  uint64_t peak_bytes;
  char level[32];
};

// The largest resident memory of this process so far.
uint64_t peak_bytes() {
  if (std::FILE* status = std::fopen("/proc/self/status", "r")) {
    char line[128];
    unsigned long long kilobytes = 0;
    while (std::fgets(line, sizeof line, status) != nullptr) {
      if (std::sscanf(line, "VmHWM: %llu", &kilobytes) == 1) break;
    }
    std::fclose(status);
    if (kilobytes > 0) return kilobytes * 1024;
  }
  struct rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  return static_cast<uint64_t>(usage.ru_maxrss);
#else
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
#endif
}

// A failed call ends the measurement; the sentence is printed where it happens.
[[noreturn]] void give_up(const std::string& sentence) { _exit(complain(sentence)); }

void must(int code, const ghost_error& error) {
  if (code != GHOST_OK) give_up(error.text);
}

StateHandle fresh(const ModelHandle& model) {
  StateHandle state;
  if (std::string wrong = new_state(model, &state); !wrong.empty()) give_up(wrong);
  return state;
}

double prefill(const ModelHandle& model) {
  const StateHandle state = fresh(model);
  const std::vector<uint8_t> text = text_of(kPrefill);
  float logits[GHOST_VOCABULARY];
  ghost_error error;
  const double start = seconds();
  must(ghost_feed(state.get(), text.data(), text.size(), logits, &error), error);
  return kPrefill / (seconds() - start);
}

// Byte after byte: read it, choose the next. What is read is fixed, so every model decodes the same number.
double decode(const ModelHandle& model) {
  const StateHandle state = fresh(model);
  const std::vector<uint8_t> text = text_of(kDecode);
  float logits[GHOST_VOCABULARY];
  uint8_t byte;
  ghost_error error;
  const double start = seconds();
  for (size_t i = 0; i < kDecode; ++i) {
    must(ghost_feed(state.get(), &text[i], 1, logits, &error), error);
    must(ghost_choose(model.get(), logits, nullptr, i, &byte, &error), error);
  }
  return kDecode / (seconds() - start);
}

double first_byte(const ModelHandle& model) {
  std::vector<uint8_t> prompt = text_of(kPrompt);
  prompt.back() = GHOST_SEP;
  float logits[GHOST_VOCABULARY];
  uint8_t byte;
  ghost_error error;
  const double start = seconds();
  const StateHandle state = fresh(model);
  must(ghost_feed(state.get(), prompt.data(), prompt.size(), logits, &error), error);
  must(ghost_choose(model.get(), logits, nullptr, 0, &byte, &error), error);
  return seconds() - start;
}

// One warm-up, then the repeats.
Spread repeat(double (*measure)(const ModelHandle&), const ModelHandle& model, int repeats) {
  measure(model);
  std::vector<double> values;
  for (int i = 0; i < repeats; ++i) values.push_back(measure(model));
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median = values.size() % 2 != 0 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

Measured measure(const std::string& path, int threads, const Settings& settings) {
  Measured result = {};
  ModelHandle model;
  const double start = seconds();
  if (std::string wrong = load(path, threads, settings.level, &model); !wrong.empty()) give_up(wrong);
  result.load = seconds() - start;
  result.prefill = repeat(prefill, model, settings.repeats);
  result.decode = repeat(decode, model, settings.repeats);
  result.first_byte = repeat(first_byte, model, settings.repeats);
  result.peak_bytes = peak_bytes();
  std::snprintf(result.level, sizeof result.level, "%s", ghost_get_info(model.get()).level);
  return result;
}

// Measures in a process of its own, so that load time and peak memory are of a fresh one. False: it has said why.
bool measure_apart(const std::string& path, int threads, const Settings& settings, Measured* result) {
  int ends[2];
  if (pipe(ends) != 0) return complain("The system refuses a pipe."), false;
  const pid_t child = fork();
  if (child < 0) return complain("The system refuses a process."), false;
  if (child == 0) {
    const Measured measured = measure(path, threads, settings);
    _exit(write(ends[1], &measured, sizeof measured) == static_cast<ssize_t>(sizeof measured) ? kDone : kBadInput);
  }
  close(ends[1]);
  const bool whole = read(ends[0], result, sizeof *result) == static_cast<ssize_t>(sizeof *result);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (!whole && WIFSIGNALED(status)) {
    complain("The measurement was ended by signal " + std::to_string(WTERMSIG(status)) + ".");
  }
  return whole;
}

std::string cell(const Spread& s, double factor, int digits) {
  return format("%.*f (%.*f to %.*f)", digits, s.median * factor, digits, s.lowest * factor, digits,
                s.highest * factor);
}

std::string json(const char* name, const Spread& s) {
  return format("\"%s\": {\"median\": %.9g, \"lowest\": %.9g, \"highest\": %.9g}, ", name, s.median, s.lowest,
                s.highest);
}

}  // namespace

int bench(const std::string& path, const Settings& settings) {
  std::vector<int> counts;
  const int cpus = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  for (int i = 1; i <= std::min<int>(cpus, GHOST_MOST_THREADS); ++i) counts.push_back(i);
  if (settings.threads_given) counts = {settings.threads};
  std::string text, runs;
  Measured m;
  for (const int count : counts) {
    if (!measure_apart(path, count, settings, &m)) return kBadInput;
    runs += format("%s{\"threads\": %d, \"load_seconds\": %.9g, ", runs.empty() ? "" : ", ", count, m.load) +
            json("prefill", m.prefill) + json("decode", m.decode) + json("first_byte", m.first_byte) +
            format("\"peak_bytes\": %llu}", static_cast<unsigned long long>(m.peak_bytes));
    text += format("%7d  %-26s  %-26s  %-20s  %7.1f  %7.1f\n", count, cell(m.prefill, 1, 0).c_str(),
                   cell(m.decode, 1, 0).c_str(), cell(m.first_byte, 1000, 2).c_str(), m.load * 1000,
                   static_cast<double>(m.peak_bytes) / 1e6);
  }
  if (settings.json) {
    print(std::string("{\"level\": \"") + m.level + "\", \"cpus\": " + std::to_string(cpus) + ", \"repeats\": " +
          std::to_string(settings.repeats) + ", \"runs\": [" + runs + "]}\n");
    return kDone;
  }
  print(path + "\n" + describe_level(m.level, settings) +
        format("%7s  %-26s  %-26s  %-20s  %7s  %7s\n", "threads", "prefill bytes/s", "decode bytes/s", "first byte ms",
               "load ms", "peak MB") +
        text + "median of " + std::to_string(settings.repeats) + " repeats after a warm-up (lowest to highest)\n");
  return kDone;
}

}  // namespace ghost_cli
