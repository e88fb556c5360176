// A packed model that can be run: load it, make states, feed bytes, generate. No exceptions; errors are sentences.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "memory.h"
#include "pass.h"
#include "sampling.h"
#include "state.h"
#include "status.h"
#include "team.h"
#include "weights.h"
#include "workspace.h"

namespace ghost {

// Asked now and then during long calls; returns false to stop them. No lock is held while it runs.
struct Poll {
  bool (*keep_going)(void* context) = nullptr;
  void* context = nullptr;
};

// A stream of a batch that generates. The fields up to max_bytes are the caller's, the last one is the result.
struct Continuation {
  State* state = nullptr;
  const uint8_t* prompt = nullptr;
  int64_t n = 0;  // bytes of the prompt, at least one
  SamplingOptions sampling;
  int64_t max_bytes = 0;
  bool reached_eos = false;
};

// Receives the bytes of generated streams; returns false to end that stream. No lock is held while it runs.
using ByteSink = bool (*)(void* context, int64_t stream, uint8_t byte);

// A text to be judged: its first n bytes are read, and nats[i] becomes what byte i + 1 cost, -log softmax(logits)[byte].
struct Judged {
  State* state = nullptr;
  const uint8_t* text = nullptr;  // [n + 1]
  int64_t n = 0;                  // at least one
  float* nats = nullptr;          // [n]
};

class Model {
 public:
  // level "": GHOST_ISA from the environment, or the best this CPU has. threads: 1..kMaxThreads, the most that compute
  // together; GHOST_TEAM=all in the environment makes it all of them, always (team.h).
  static Status load(const std::string& path, int threads, const std::string& level, std::unique_ptr<Model>* model);

  // A state before the first byte. It must not outlive the model.
  Status new_state(std::unique_ptr<State>* state) const;
  Status fork(State* state, std::unique_ptr<State>* copy) const;
  Status assign(State* state, const State& from) const;
  Status reset(State* state) const;
  size_t state_bytes() const { return layout_->bytes(); }

  // Feeds n bytes. logits: for all n positions or only the last, [n or 1][256], or nullptr; hidden alike, [n or 1][d].
  // Calls from several threads take turns; a state that is in use by another call is an error.
  // Stopped by `poll`, the call returns an error and the state has read a part of the bytes.
  Status forward(State* state, const uint8_t* tokens, int64_t n, bool last_only, float* logits, float* hidden,
                 const Poll& poll = {});

  // Feeds one byte to each of `count` different streams, together: the weights are read once for up to kChunk streams.
  // logits [count][256] or nullptr, hidden [count][d] or nullptr; the bits are those of every stream on its own. On an
  // error no state has changed.
  Status step(State* const* states, const uint8_t* tokens, int64_t count, float* logits, float* hidden);

  // Feeds every stream its prompt, then chooses and feeds its bytes until EOS, max_bytes or the sink ends it. Several
  // streams go through the same matrix products; when one ends, the next one takes its place. A state has then read the
  // prompt and every byte the sink got; EOS goes neither to the sink nor into the state. The bits are those of every
  // stream on its own. After an error the states have read a part. (generate.cpp)
  Status generate(Continuation* streams, int64_t count, ByteSink sink, void* context, const Poll& poll = {});

  // Feeds and judges many texts together. (generate.cpp)
  Status judge(const Judged* texts, int64_t count, const Poll& poll = {});

  // The next byte from logits [256], number `step` of its text; -1 if they are not finite.
  int choose(const float* logits, const SamplingOptions& sampling, uint64_t step) const;

  // Replaces the snapshot that memory layers query (memory.h); entries = 0 clears it.
  Status set_memory(const float* keys, const uint8_t* values, const int32_t* counts, int64_t entries);

  const Config& config() const { return weights_.config; }
  const std::string& config_json() const { return weights_.config_json; }
  int64_t parameters() const { return weights_.parameters; }
  const std::vector<StorageKind>& storage() const { return weights_.storage; }
  const char* level() const { return kernels_->name; }
  int threads() const { return team_.threads(); }
  size_t memory_bytes();

 private:
  Model() = default;
  Status check(const State& state, int64_t n) const;
  class Batch;
  Status settle(Batch* batch, int part, int choice, Continuation* streams, ByteSink sink, void* context,
                bool* more) const;
  Status feed(State* state, const uint8_t* tokens, int64_t n, bool last_only, float* logits, float* hidden,
              const Poll& poll);

  const Kernels* kernels_ = nullptr;
  Weights weights_;
  std::unique_ptr<StateLayout> layout_;
  std::mutex mutex_;  // guards what follows
  Team team_;
  Workspace work_;
  MemorySnapshot memory_;
};

}  // namespace ghost
