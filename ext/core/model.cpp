#include "model.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "dispatch.h"
#include "fp_control.h"
#include "lease.h"

namespace ghost {
namespace {

constexpr int64_t kTurn = 64 * kChunk;  // bytes after which another call may have its turn

Status no_memory(const std::string& what) { return Status::error("There is not enough memory for " + what + "."); }

// GHOST_TEAM=all: every thread takes part in every run.
Status choose_attendance(Attendance* attendance) {
  const char* variable = std::getenv("GHOST_TEAM");
  const std::string wanted = variable == nullptr ? "" : variable;
  *attendance = wanted == "all" ? Attendance::kEverybody : Attendance::kWhoIsReady;
  if (wanted.empty() || wanted == "all") return Status();
  return Status::error("The environment variable GHOST_TEAM is '" + wanted + "'; set it to all, or unset it.");
}

}  // namespace

Status Model::load(const std::string& path, int threads, const std::string& level, std::unique_ptr<Model>* out) {
  if (threads < 1 || threads > kMaxThreads) {
    return Status::error("threads must be in 1.." + std::to_string(kMaxThreads) + ", got " + std::to_string(threads) +
                         ".");
  }
  Attendance attendance;
  if (Status status = choose_attendance(&attendance); !status.ok()) return status;
  std::unique_ptr<Model> model(new (std::nothrow) Model());
  if (model == nullptr) return no_memory("a model");
  if (Status status = select_kernels(level, &model->kernels_); !status.ok()) return status;
  FpControl control;
  if (Status status = load_weights(path, *model->kernels_, &model->weights_); !status.ok()) return status;
  model->layout_.reset(new (std::nothrow) StateLayout(model->weights_.config));
  if (model->layout_ == nullptr || !model->work_.allocate(model->weights_.config, threads)) {
    return no_memory("running " + path);
  }
  if (!model->team_.start(threads, attendance)) {
    return Status::error("The system refuses to start " + std::to_string(threads) + " threads.");
  }
  *out = std::move(model);
  return Status();
}

Status Model::new_state(std::unique_ptr<State>* out) const {
  std::unique_ptr<State> state(new (std::nothrow) State(*layout_));
  if (state == nullptr || !state->allocate()) return no_memory("another state");
  *out = std::move(state);
  return Status();
}

Status Model::fork(State* state, std::unique_ptr<State>* copy) const {
  const Lease lease(state);
  if (!lease.taken()) return busy();
  if (Status status = new_state(copy); !status.ok()) return status;
  (*copy)->copy_from(*state);
  return Status();
}

Status Model::assign(State* state, const State& from) const {
  const Lease lease(state);
  if (!lease.taken()) return busy();
  state->copy_from(from);
  return Status();
}

Status Model::reset(State* state) const {
  const Lease lease(state);
  if (!lease.taken()) return busy();
  state->reset();
  return Status();
}

Status Model::check(const State& state, int64_t n) const {
  if (&state.layout() != layout_.get()) return Status::error("The state belongs to another model.");
  if (n > INT32_MAX - state.position) return Status::error("A stream ends after 2147483647 bytes; start a new state.");
  return Status();
}

// The state is leased by the caller; the team is held for kTurn bytes at a time.
Status Model::feed(State* state, const uint8_t* tokens, int64_t n, bool last_only, float* logits, float* hidden,
                   const Poll& poll) {
  const size_t d = static_cast<size_t>(config().d_model);
  for (int64_t turn = 0; turn < n; turn += kTurn) {
    if (turn > 0 && poll.keep_going != nullptr && !poll.keep_going(poll.context)) return Status::error("Interrupted.");
    const std::lock_guard<std::mutex> lock(mutex_);
    for (int64_t start = turn; start < std::min(n, turn + kTurn); start += kChunk) {
      const int length = static_cast<int>(std::min<int64_t>(kChunk, n - start));
      const bool last = start + length == n;
      const Stream stream{state, 0, length};
      Pass pass{weights_, *kernels_, memory_, team_, work_, &stream, 1, tokens + start, length, 0, logits, hidden};
      if (last_only) pass.first_output = last ? length - 1 : length;
      ghost::run(&pass);
      if (last_only) continue;
      if (logits != nullptr) logits += static_cast<size_t>(length) * kVocabulary;
      if (hidden != nullptr) hidden += static_cast<size_t>(length) * d;
    }
  }
  return Status();
}

Status Model::forward(State* state, const uint8_t* tokens, int64_t n, bool last_only, float* logits, float* hidden,
                      const Poll& poll) {
  const Lease lease(state);
  if (!lease.taken()) return busy();
  if (Status status = check(*state, n); !status.ok()) return status;
  return feed(state, tokens, n, last_only, logits, hidden, poll);
}

Status Model::step(State* const* states, const uint8_t* tokens, int64_t count, float* logits, float* hidden) {
  Leases leases([states](int64_t i) { return states[i]; });
  for (int64_t i = 0; i < count; ++i) {
    if (Status status = check(*states[i], 1); !status.ok()) return status;
  }
  if (Status status = leases.take(count); !status.ok()) return status;
  Stream streams[kChunk];
  const std::lock_guard<std::mutex> lock(mutex_);
  for (int64_t start = 0; start < count; start += kChunk) {
    const int length = static_cast<int>(std::min<int64_t>(kChunk, count - start));
    for (int s = 0; s < length; ++s) streams[s] = {states[start + s], s, s + 1};
    Pass pass{weights_, *kernels_, memory_, team_, work_, streams, length, tokens + start, length, 0, logits, hidden};
    ghost::run(&pass);
    if (logits != nullptr) logits += static_cast<size_t>(length) * kVocabulary;
    if (hidden != nullptr) hidden += static_cast<size_t>(length) * static_cast<size_t>(config().d_model);
  }
  return Status();
}

Status Model::set_memory(const float* keys, const uint8_t* values, const int32_t* counts, int64_t entries) {
  if (entries > config().memory_capacity) {
    return Status::error("The model's memory holds " + std::to_string(config().memory_capacity) + " entries, got " +
                         std::to_string(entries) + ".");
  }
  MemorySnapshot snapshot;
  if (entries > 0 && !config().memory_layers.empty()) {
    FpControl control;
    if (!snapshot.build(weights_, *kernels_, keys, values, counts, static_cast<int>(entries))) {
      return no_memory("the memory bank");
    }
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  memory_ = std::move(snapshot);
  return Status();
}

size_t Model::memory_bytes() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return weights_.bytes + work_.bytes() + memory_.bytes();
}

}  // namespace ghost
