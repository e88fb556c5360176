#include <sys/resource.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "model_handle.h"
#include "output.h"
#include "verbs.h"

namespace ghost_cli {
namespace {

// What a measuring process hands back, as bytes through a pipe.
struct Measured {
  double load;
  ghost_speed speed;
  uint64_t peak_bytes, model_bytes;
  char level[32];
  char instruction[64];  // speed's own pointer means nothing in another process
};

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

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

Measured measure(const std::string& path, int threads, const Settings& settings) {
  Measured result = {};
  ModelHandle model;
  const uint64_t before = peak_bytes();
  const double start = seconds();
  if (std::string wrong = load(path, threads, settings.level, &model); !wrong.empty()) give_up(wrong);
  result.load = seconds() - start;
  ghost_error error;
  if (ghost_measure(model.get(), settings.repeats, &result.speed, &error) != GHOST_OK) give_up(error.text);
  result.peak_bytes = peak_bytes();
  result.model_bytes = result.peak_bytes - before;
  std::snprintf(result.level, sizeof result.level, "%s", ghost_get_info(model.get()).level);
  const char* instruction = result.speed.instruction;
  std::snprintf(result.instruction, sizeof result.instruction, "%s", instruction == nullptr ? "" : instruction);
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

std::string cell(const ghost_spread& s, double factor, int digits) {
  return format("%.*f (%.*f to %.*f)", digits, s.median * factor, digits, s.lowest * factor, digits,
                s.highest * factor);
}

std::string json(const char* name, const ghost_spread& s) {
  return format("\"%s\": {\"median\": %.9g, \"lowest\": %.9g, \"highest\": %.9g}", name, s.median, s.lowest, s.highest);
}

std::string json_floor(const Measured& m) {
  if (*m.instruction == '\0') return "null";
  return "{" + json("times", m.speed.times_floor) + ", \"instruction\": " + json_string(m.instruction) + ", " +
         json("integer_peak", m.speed.integer_peak) + ", " + json("float_peak", m.speed.float_peak) + "}";
}

std::string json_run(int threads, const Measured& m) {
  return format("{\"threads\": %d, \"load_seconds\": %.9g, ", threads, m.load) + json("prefill", m.speed.prefill) +
         ", " + json("decode", m.speed.decode) + ", " + json("first_byte", m.speed.first_byte) +
         format(", \"products_per_byte\": %.9g, \"scan_updates_per_byte\": %.9g, \"floor\": ",
                m.speed.products_per_byte, m.speed.scan_updates_per_byte) +
         json_floor(m) +
         format(", \"peak_bytes\": %llu, \"model_bytes\": %llu}", static_cast<unsigned long long>(m.peak_bytes),
                static_cast<unsigned long long>(m.model_bytes));
}

std::string text_run(int threads, const Measured& m) {
  const std::string floor = *m.instruction == '\0' ? "-" : cell(m.speed.times_floor, 1, 2);
  return format("%7d  %-26s  %-26s  %-20s  %-20s  %7.1f  %7.1f  %14.1f\n", threads, cell(m.speed.prefill, 1, 0).c_str(),
                cell(m.speed.decode, 1, 0).c_str(), floor.c_str(), cell(m.speed.first_byte, 1000, 2).c_str(),
                m.load * 1000, static_cast<double>(m.peak_bytes) / 1e6, static_cast<double>(m.model_bytes) / 1e6);
}

std::string text_floor(const Measured& m) {
  if (*m.instruction == '\0') return std::string("no floor: the level ") + m.level + " has no peak of its own\n";
  return format("the floor of a byte: %.3fM products at %.0f GMAC/s (%s) and %s scan updates of 26 operations at %.0f "
                "GFLOP/s, one core\n", m.speed.products_per_byte / 1e6, m.speed.integer_peak.median / 1e9,
                m.instruction, with_commas(static_cast<uint64_t>(m.speed.scan_updates_per_byte + 0.5)).c_str(),
                m.speed.float_peak.median / 1e9);
}

// As the system names it, else the architecture.
std::string cpu_name() {
  std::string name;
  if (std::FILE* file = std::fopen("/proc/cpuinfo", "r")) {
    char line[256];
    while (name.empty() && std::fgets(line, sizeof line, file) != nullptr) {
      const char* colon = std::strncmp(line, "model name", 10) == 0 ? std::strchr(line, ':') : nullptr;
      if (colon != nullptr) name = colon + 1 + (colon[1] == ' ');
    }
    std::fclose(file);
  }
  struct utsname system = {};
  if (name.empty() && uname(&system) == 0) name = system.machine;
  while (!name.empty() && name.back() == '\n') name.pop_back();
  return name;
}

}  // namespace

int available_cpus() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

int bench(const std::string& path, const Settings& settings) {
  std::vector<int> counts;
  for (int i = 1; i <= std::min<int>(available_cpus(), GHOST_MOST_THREADS); ++i) counts.push_back(i);
  if (settings.threads_given) counts = {settings.threads};
  std::string text, runs, floor;
  Measured m;
  for (const int count : counts) {
    if (!measure_apart(path, count, settings, &m)) return kBadInput;
    runs += (runs.empty() ? "" : ", ") + json_run(count, m);
    text += text_run(count, m);
    if (floor.empty()) floor = text_floor(m);
  }
  if (settings.json) {
    print("{\"file\": " + json_string(path) + ", \"backend\": \"native\", " + json_level(m.level, settings) +
          ", \"cpu\": " + json_string(cpu_name()) + format(", \"cpus\": %d, \"repeats\": %d, ", available_cpus(),
                                                           settings.repeats) + "\"runs\": [" + runs + "]}\n");
    return kDone;
  }
  print(path + " on " + cpu_name() + " (" + std::to_string(available_cpus()) + " CPUs)\n" +
        describe_level(m.level, settings) +
        format("%7s  %-26s  %-26s  %-20s  %-20s  %7s  %7s  %14s\n", "threads", "prefill bytes/s", "decode bytes/s",
               "times the floor", "first byte ms", "load ms", "peak MB", "of it model MB") +
        text + floor + "median of " + std::to_string(settings.repeats) +
        " repeats after a warm-up (lowest to highest)\n");
  return kDone;
}

}  // namespace ghost_cli
