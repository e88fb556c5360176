// One model used by many threads at once, built with -fsanitize=thread by `make tsan`: every caller, whatever the team
// and the company of other streams, must get the bits that one thread alone gets.
//
//   test_sharing MODEL.ghost
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "../core/model.h"

namespace {

using ghost::Model;
using ghost::State;
using ghost::Status;

constexpr int kCallers = 4, kBytes = 150, kStreams = 3;

void require(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "test_sharing: %s\n", status.message().c_str());
  std::exit(2);
}

// What a caller reads, in pieces, and the logits after every byte.
std::vector<uint8_t> text_of(int caller) {
  std::vector<uint8_t> text(kBytes);
  unsigned x = static_cast<unsigned>(caller) + 1;
  for (uint8_t& byte : text) {
    x = x * 1664525u + 1013904223u;
    byte = static_cast<uint8_t>((x >> 16) % 128);
  }
  return text;
}

// [kStreams + 1][kBytes][256]: the text read by one stream in pieces, then byte by byte by kStreams streams together.
std::vector<float> read(Model* model, int caller) {
  const std::vector<uint8_t> text = text_of(caller);
  const size_t row = ghost::kVocabulary, block = row * kBytes;
  std::vector<float> logits(block * (kStreams + 1));
  std::unique_ptr<State> alone, streams[kStreams];
  require(model->new_state(&alone));
  for (int64_t at = 0, size = 1; at < kBytes; at += size, size = size * 3 % 97) {
    size = std::min<int64_t>(size, kBytes - at);
    float* const out = logits.data() + at * ghost::kVocabulary;
    require(model->forward(alone.get(), text.data() + at, size, false, out, nullptr));
  }
  State* states[kStreams];
  for (int s = 0; s < kStreams; ++s) {
    require(s == 0 ? model->new_state(&streams[s]) : model->fork(streams[0].get(), &streams[s]));
    states[s] = streams[s].get();
  }
  std::vector<float> together(row * kStreams);
  for (size_t i = 0; i < kBytes; ++i) {
    uint8_t bytes[kStreams];
    for (size_t s = 0; s < kStreams; ++s) bytes[s] = text[(i + 7 * s) % kBytes];
    require(model->step(states, bytes, kStreams, together.data(), nullptr));
    for (size_t s = 0; s < kStreams; ++s) {
      std::memcpy(&logits[block * (s + 1) + row * i], &together[row * s], row * sizeof(float));
    }
  }
  return logits;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Different callers at the same time, each with states of its own.
int differences(const std::string& path, int threads, const std::vector<std::vector<float>>& expected) {
  std::unique_ptr<Model> model;
  require(Model::load(path, threads, "", &model));
  std::vector<std::vector<float>> found(kCallers);
  std::vector<std::thread> callers;
  for (int i = 0; i < kCallers; ++i) {
    callers.emplace_back([&, i] { found[static_cast<size_t>(i)] = read(model.get(), i); });
  }
  int different = 0;
  for (size_t i = 0; i < kCallers; ++i) {
    callers[i].join();
    different += same(found[i], expected[i]) ? 0 : 1;
  }
  return different;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: test_sharing MODEL.ghost\n"), 2;
  std::vector<std::vector<float>> expected;
  {
    std::unique_ptr<Model> model;
    require(Model::load(argv[1], 1, "", &model));
    for (int i = 0; i < kCallers; ++i) expected.push_back(read(model.get(), i));
  }
  int different = 0, compared = 0;
  for (const bool everybody : {false, true}) {
    everybody ? setenv("GHOST_TEAM", "all", 1) : unsetenv("GHOST_TEAM");
    for (const int threads : {1, 2, 3, 4}) {
      different += differences(argv[1], threads, expected);
      compared += kCallers;
    }
  }
  std::printf("%d callers compared, %d different\n", compared, different);
  return different == 0 ? 0 : 1;
}
