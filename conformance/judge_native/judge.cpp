// ghost-judge DIR [--level L]: holds the native core to golden vectors (docs/conformance-vectors.md), bit by bit, at
// every level of this CPU. Exit 0: no difference; 1: differences; 2: bad files or arguments, told in one sentence.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>

#include "components.h"
#include "dispatch.h"
#include "fp_control.h"

namespace judge {
namespace {

constexpr size_t kShown = 20;  // differences
constexpr const char* kModel = "model";
constexpr const char* kUsage = "usage: ghost-judge DIR [--level L]";
constexpr const char* kHelp =
    "usage: ghost-judge DIR [--level L]\n\n"
    "Holds the native core to the golden vectors in DIR, bit by bit, at every level of this CPU or at level L.\n"
    "Exit code 0: every bit equal; 1: differences; 2: bad files or arguments.";

struct Tally {
  int passed = 0, cases = 0;
};

// A row of the table.
struct Line {
  std::string component;
  std::vector<Tally> levels;
  std::set<std::string> absent;  // why some cases were not run
};

bool same(double a, double b) {  // equal with the sign of zero, or NaN both
  return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b);
}

// The first difference of an output in words, or "".
std::string difference(const Tensor& expected, const std::vector<float>* got) {
  if (got == nullptr) return "is not computed by this judge";
  if (static_cast<size_t>(expected.size()) != got->size()) {
    return "has " + std::to_string(got->size()) + " elements instead of " + std::to_string(expected.size());
  }
  for (size_t i = 0; i < got->size(); ++i) {
    const double wanted = expected.number(static_cast<int64_t>(i)), found = static_cast<double>((*got)[i]);
    if (same(wanted, found)) continue;
    char text[128];
    std::snprintf(text, sizeof text, "at %zu is %.9g (%a) instead of %.9g (%a)", i, found, found, wanted, wanted);
    return text;
  }
  return "";
}

class Judge {
 public:
  Judge(std::string directory, std::vector<const ghost::Kernels*> levels)
      : directory_(std::move(directory)), levels_(std::move(levels)) {}

  void judge(const std::string& name) {
    const Component component(directory_, name);
    const Implementation* implementation = find_implementation(name);
    if (!component.canonical || (implementation == nullptr && name != kModel)) {
      unknown_.push_back(name);
      return;
    }
    Line line{name, std::vector<Tally>(levels_.size()), {}};
    for (const Case& vectors : component.cases) judge_case(vectors, implementation, line);
    lines_.push_back(line);
  }

  // Prints what was found; the exit code.
  int report() const {
    size_t width = std::strlen("component");
    for (const Line& line : lines_) width = std::max(width, line.component.size());
    std::printf("%-*s", static_cast<int>(width), "component");
    for (const ghost::Kernels* level : levels_) std::printf("  %12s", level->name);
    std::printf("\n");
    for (const Line& line : lines_) print(line, static_cast<int>(width));
    for (const std::string& name : unknown_) std::printf("not in the runtime: %s\n", name.c_str());
    for (size_t i = 0; i < differences_.size() && i < kShown; ++i) {
      std::printf("DIFFERENT: %s\n", differences_[i].c_str());
    }
    if (differences_.size() > kShown) std::printf("... and %zu more\n", differences_.size() - kShown);
    std::printf(differences_.empty() ? "%d results, every bit equal\n" : "%d results, %zu different\n", results_,
                differences_.size());
    if (results_ == 0) throw BadFile(directory_ + " holds no case that the runtime can run.");
    return differences_.empty() ? 0 : 1;
  }

 private:
  void judge_case(const Case& vectors, const Implementation* implementation, Line& line) {
    const char* reason = !vectors.forward() ? "gradients: the runtime does not train"
                         : implementation != nullptr && implementation->absence ? implementation->absence(vectors)
                                                                                : nullptr;
    if (reason != nullptr) {
      line.absent.insert(reason);
      return;
    }
    if (!vectors.has_bits()) vectors.refuse("has no bits");
    for (size_t i = 0; i < levels_.size(); ++i) {
      const Outputs outputs = implementation != nullptr
                                  ? implementation->run(*levels_[i], vectors)
                                  : run_model(directory_ + "/model.ghost", levels_[i]->name, vectors);
      const std::string words = compare(vectors, outputs);
      ++results_;
      ++line.levels[i].cases;
      line.levels[i].passed += words.empty();
      if (words.empty()) continue;
      differences_.push_back(line.component + " " + vectors.name() + " at level " + levels_[i]->name + ": " + words);
    }
  }

  static std::string compare(const Case& vectors, const Outputs& outputs) {
    for (const std::string& name : vectors.outputs()) {
      const auto found = outputs.find(name);
      const std::vector<float>* got = found == outputs.end() ? nullptr : &found->second;
      const std::string words = difference(vectors.at("bits/" + name), got);
      if (!words.empty()) return name + " " + words;
    }
    return "";
  }

  static void print(const Line& line, int width) {
    std::printf("%-*s", width, line.component.c_str());
    for (const Tally& tally : line.levels) {
      const std::string text = std::to_string(tally.passed) + "/" + std::to_string(tally.cases);
      std::printf("  %12s", text.c_str());
    }
    const char* separator = "  not run: ";
    for (const std::string& reason : line.absent) {
      std::printf("%s%s", separator, reason.c_str());
      separator = "; ";
    }
    std::printf("\n");
  }

  std::string directory_;
  std::vector<const ghost::Kernels*> levels_;
  std::vector<Line> lines_;
  std::vector<std::string> unknown_, differences_;
  int results_ = 0;
};

std::vector<const ghost::Kernels*> choose_levels(const char* name) {
  const ghost::Kernels* tables[ghost::kMaxLevels];
  if (name == nullptr) return {tables, tables + ghost::available_levels(tables)};
  const ghost::Status status = ghost::select_kernels(name, tables);
  if (!status.ok()) throw BadFile(status.message());
  return {tables[0]};
}

int run(int argc, char** argv) {
  const bool with_level = argc == 4 && std::strcmp(argv[2], "--level") == 0 && argv[3][0] != '\0';
  if (argc == 2 && (std::strcmp(argv[1], "--help") == 0 || std::strcmp(argv[1], "-h") == 0)) {
    std::puts(kHelp);
    return 0;
  }
  if (argc == 3 && std::strcmp(argv[1], "--serve") == 0) return serve(*choose_levels(argv[2])[0]);
  if (argc != 2 && !with_level) throw BadFile(kUsage);
  setenv("GHOST_TEAM", "all", 1);  // every split is judged, however busy the machine is
  const ghost::FpControl control;
  Judge judge(argv[1], choose_levels(with_level ? argv[3] : nullptr));
  for (const std::string& name : read_manifest(argv[1])) judge.judge(name);
  return judge.report();
}

}  // namespace
}  // namespace judge

int main(int argc, char** argv) {
  try {
    return judge::run(argc, argv);
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "ghost-judge: %s\n", error.what());
    return 2;
  }
}
