#include <cstdlib>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <cstring>
#include <vector>

#include "../core/philox.h"
#include "model_handle.h"
#include "output.h"
#include "verbs.h"

namespace ghost_cli {
namespace {

constexpr uint32_t kKey0 = 0x47686F73, kKey1 = 0x74000000;  // "Ghost"
constexpr int kLongest = 64, kAnswer = 8;
constexpr uint32_t kNan = 0x7FC00000;

// Prompt number p: its length and cut from counter (p, 0, 0, 0), 16 of its bytes from each (p, 1, 0, 0), (p, 2, ...
struct Prompt {
  std::vector<uint8_t> bytes;
  size_t cut;  // the logits are computed in two pieces, or in one if it is 0

  explicit Prompt(uint32_t number) {
    const ghost::Philox4x32 shape = ghost::philox4x32({{number, 0, 0, 0}}, kKey0, kKey1);
    bytes.resize(1 + shape.word[0] % kLongest);
    cut = shape.word[1] % bytes.size();
    for (size_t i = 0; i < bytes.size(); ++i) {
      const uint32_t block = 1 + static_cast<uint32_t>(i / 16);
      const ghost::Philox4x32 random = ghost::philox4x32({{number, block, 0, 0}}, kKey0, kKey1);
      bytes[i] = static_cast<uint8_t>(random.word[i % 16 / 4] >> i % 4 * 8);
    }
  }
};

// FNV-1a with 32-bit words for bytes.
struct Hash {
  uint64_t value = 14695981039346656037u;
  void add(uint32_t word) { value = (value ^ word) * 1099511628211u; }
};

// What one level and number of threads computes: the bits of all logits, and sampled answers.
struct Result {
  Hash logits, answers;
  std::string wrong;
};

// NaNs are one value: their bits differ between machines.
void add_logits(const std::vector<float>& logits, Hash* hash) {
  for (const float x : logits) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    hash->add(x != x ? kNan : bits);
  }
}

int add_byte(void* hash, uint8_t byte) {
  static_cast<Hash*>(hash)->add(byte);
  return 0;
}

bool read_prompt(const ModelHandle& model, const Prompt& prompt, StateHandle* state, Result* result) {
  result->wrong = fresh_state(model, state);
  if (!result->wrong.empty()) return false;
  const size_t n = prompt.bytes.size();
  std::vector<float> logits(n * GHOST_VOCABULARY);
  ghost_error error;
  const auto piece = [&](size_t begin, size_t end) {
    return begin == end || ghost_logits(state->get(), &prompt.bytes[begin], end - begin,
                                        &logits[begin * GHOST_VOCABULARY], &error) == GHOST_OK;
  };
  const bool read = piece(0, prompt.cut) && piece(prompt.cut, n);
  if (!read) result->wrong = error.text;
  add_logits(logits, &result->logits);
  return read;
}

// Bytes 0..255 may stand in the prompt; the answer is drawn at temperature 1 with the prompt's number as seed.
bool answer_prompt(const ModelHandle& model, const Prompt& prompt, uint32_t number, StateHandle* state,
                   Result* result) {
  result->wrong = fresh_state(model, state);
  if (!result->wrong.empty()) return false;
  ghost_sampling sampling = ghost_greedy();
  sampling.temp = 1;
  sampling.seed = number;
  ghost_error error;
  int ended = 0;
  const int code = ghost_generate(state->get(), prompt.bytes.data(), prompt.bytes.size(), &sampling, kAnswer, add_byte,
                                  &result->answers, &ended, &error);
  if (code != GHOST_OK) result->wrong = error.text;
  result->answers.add(ended != 0 ? GHOST_EOS : 0x100);  // where one answer ends and the next begins
  return code == GHOST_OK;
}

Result compute(const std::string& path, const char* level, int threads, int prompts) {
  Result result;
  ModelHandle model;
  StateHandle state;
  result.wrong = load(path, threads, level, &model);
  for (uint32_t i = 0; result.wrong.empty() && i < static_cast<uint32_t>(prompts); ++i) {
    const Prompt prompt(i);
    if (read_prompt(model, prompt, &state, &result)) answer_prompt(model, prompt, i, &state, &result);
  }
  return result;
}

// The memory of a model that is not needed any more goes back to the system. Left to itself, glibc keeps blocks as large
// as any that was freed once, and later models would not fit between them.
void keep_no_large_blocks() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 1 << 17);
#endif
}

}  // namespace

int check(const std::string& path, const Settings& settings) {
  setenv("GHOST_TEAM", "all", 1);  // every split is computed, however busy the machine is
  keep_no_large_blocks();
  ModelHandle model;  // what is wrong with the file is said once
  if (std::string wrong = load(path, 1, settings.level, &model); !wrong.empty()) return complain(wrong);
  model.reset();
  print(path + ": its checksum, header, configuration and tensors are right\n" +
        "level       threads  logits            answers\n");
  std::vector<int> threads = {1, 2, 3};
  if (settings.threads_given) threads = {settings.threads};
  Result first;
  bool any = false, equal = true;
  const char* missing = nullptr;
  for (int i = 0; const char* level = ghost_level(i, &missing); ++i) {
    if (!settings.level.empty() && settings.level != level) continue;
    if (missing != nullptr) {
      print(format("%-10s  not run: %s\n", level, missing));
      continue;
    }
    for (const int count : threads) {
      const Result result = compute(path, level, count, settings.prompts);
      if (!result.wrong.empty()) return complain(result.wrong);
      if (!any) first = result;
      any = true;
      const bool same = result.logits.value == first.logits.value && result.answers.value == first.answers.value;
      equal = equal && same;
      print(format("%-10s  %7d  %016llx  %016llx%s\n", level, count,
                   static_cast<unsigned long long>(result.logits.value),
                   static_cast<unsigned long long>(result.answers.value), same ? "" : "  DIFFERENT"));
    }
  }
  print(std::to_string(settings.prompts) + " prompts of 1 to " + std::to_string(kLongest) + " bytes: " +
        (equal ? "the same bits everywhere\n" : "the bits differ; this build or this machine is broken\n"));
  return equal ? kDone : kDifferent;
}

}  // namespace ghost_cli
