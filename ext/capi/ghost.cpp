// The C interface over ext/core/model.h. Every pointer and number of the caller is checked before the core sees it.
#include "ghost.h"

#include <sys/stat.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "../core/buffer.h"
#include "../core/dispatch.h"
#include "../core/measure.h"

using ghost::Status;

static_assert(GHOST_VOCABULARY == ghost::kVocabulary && GHOST_MOST_THREADS == ghost::kMaxThreads,
              "ghost.h states the core's limits");

struct ghost_model {
  std::unique_ptr<ghost::Model> model;
  std::atomic<long> owners{1};  // the caller's handle and every state
};

struct ghost_state {
  ghost_model* model = nullptr;
  std::unique_ptr<ghost::State> state;
};

namespace {

// Copies the sentence, cut before a character that does not fit.
int report(const Status& status, ghost_error* error) {
  if (error != nullptr) {
    const std::string& text = status.message();
    size_t size = text.size();
    if (size >= sizeof error->text) {
      size = sizeof error->text - 1;
      while (size > 0 && (text[size] & 0xC0) == 0x80) --size;
    }
    std::memcpy(error->text, text.data(), size);
    error->text[size] = '\0';
  }
  return status.ok() ? GHOST_OK : GHOST_ERROR;
}

// Runs `body`, which returns a Status. Where the library is built with exceptions, one that the standard library throws
// (there is no memory for a string, no thread) becomes a sentence; without them it ends the process.
template <typename Body>
int guarded(ghost_error* error, Body body) {
#ifdef __cpp_exceptions
  try {
    return report(body(), error);
  } catch (...) {
    if (error != nullptr) std::memcpy(error->text, "There is not enough memory.", 28);
    return GHOST_ERROR;
  }
#else
  return report(body(), error);
#endif
}

Status missing(const char* argument) { return Status::error(std::string(argument) + " is NULL."); }

Status no_memory() { return Status::error("There is not enough memory for another handle."); }

void release(ghost_model* model) {
  if (model->owners.fetch_sub(1, std::memory_order_acq_rel) == 1) delete model;
}

// A handle of `state`, which is of `model`.
Status wrap(ghost_model* model, std::unique_ptr<ghost::State> state, ghost_state** out) {
  ghost_state* handle = new (std::nothrow) ghost_state;
  if (handle == nullptr) return no_memory();
  model->owners.fetch_add(1, std::memory_order_relaxed);
  handle->model = model;
  handle->state = std::move(state);
  *out = handle;
  return Status();
}

Status feed(ghost_state* state, const uint8_t* bytes, size_t n, bool last_only, float* logits) {
  if (state == nullptr) return missing("state");
  if (bytes == nullptr) return missing("bytes");
  if (n < 1 || n > INT32_MAX) return Status::error("The number of bytes must be in 1..2147483647.");
  return state->model->model->forward(state->state.get(), bytes, static_cast<int64_t>(n), last_only, logits, nullptr);
}

// Written so that NaN is out of range.
Status check_sampling(const ghost_sampling& s) {
  if (!(s.temp >= 0 && s.temp <= 100)) return Status::error("temp must be in 0..100.");
  if (s.top_k < 0 || s.top_k > GHOST_VOCABULARY) return Status::error("top_k must be in 0..256.");
  if (!(s.top_p > 0 && s.top_p <= 1)) return Status::error("top_p must be in (0, 1].");
  if (!(s.min_p >= 0 && s.min_p <= 1)) return Status::error("min_p must be in 0..1.");
  return Status();
}

ghost_spread spread_of(const ghost::Spread& s) { return {s.median, s.lowest, s.highest}; }

ghost::SamplingOptions options_of(const ghost_sampling& s) { return {s.temp, s.top_k, s.top_p, s.min_p, s.seed}; }

}  // namespace

const char* ghost_version(void) { return GHOST_VERSION; }

int ghost_load(const char* path, int threads, const char* level, ghost_model** model, ghost_error* error) {
  return guarded(error, [&] {
    if (path == nullptr) return missing("path");
    if (model == nullptr) return missing("model");
    *model = nullptr;
    struct stat file = {};
    if (stat(path, &file) == 0 && S_ISDIR(file.st_mode)) {
      return Status::error(std::string(path) + " is a directory; name a file in it.");
    }
    std::unique_ptr<ghost_model> loaded(new (std::nothrow) ghost_model);
    if (loaded == nullptr) return no_memory();
    Status status = ghost::Model::load(path, threads, level == nullptr ? "" : level, &loaded->model);
    if (status.ok()) *model = loaded.release();
    return status;
  });
}

void ghost_free(ghost_model* model) {
  if (model != nullptr) release(model);
}

ghost_info ghost_get_info(ghost_model* model) {
  ghost_info info = {"", "", 0, 0, 0, 0, 0, 0};
  if (model == nullptr) return info;
  const ghost::Config& config = model->model->config();
  info.config_json = model->model->config_json().c_str();
  info.level = model->model->level();
  info.threads = model->model->threads();
  info.d_model = config.d_model;
  info.n_layers = config.n_layers;
  info.model_bytes = model->model->memory_bytes();
  info.state_bytes = model->model->state_bytes();
  info.parameters = model->model->parameters();
  return info;
}

const char* ghost_storage(ghost_model* model, int index, uint64_t* bytes) {
  if (bytes != nullptr) *bytes = 0;
  if (model == nullptr || index < 0) return nullptr;
  const std::vector<ghost::StorageKind>& kinds = model->model->storage();
  if (static_cast<size_t>(index) >= kinds.size()) return nullptr;
  const ghost::StorageKind& kind = kinds[static_cast<size_t>(index)];
  if (bytes != nullptr) *bytes = kind.bytes;
  return kind.name;
}

const char* ghost_level(int index, const char** missing) {
  ghost::Level levels[ghost::kMaxLevels];
  const int count = ghost::known_levels(levels);
  if (missing != nullptr) *missing = index >= 0 && index < count ? levels[index].missing : nullptr;
  return index >= 0 && index < count ? levels[index].name : nullptr;
}

int ghost_new_state(ghost_model* model, ghost_state** state, ghost_error* error) {
  return guarded(error, [&] {
    if (model == nullptr) return missing("model");
    if (state == nullptr) return missing("state");
    *state = nullptr;
    std::unique_ptr<ghost::State> fresh;
    if (Status status = model->model->new_state(&fresh); !status.ok()) return status;
    return wrap(model, std::move(fresh), state);
  });
}

int ghost_fork(ghost_state* state, ghost_state** copy, ghost_error* error) {
  return guarded(error, [&] {
    if (state == nullptr) return missing("state");
    if (copy == nullptr) return missing("copy");
    *copy = nullptr;
    std::unique_ptr<ghost::State> twin;
    if (Status status = state->model->model->fork(state->state.get(), &twin); !status.ok()) return status;
    return wrap(state->model, std::move(twin), copy);
  });
}

int ghost_reset(ghost_state* state, ghost_error* error) {
  return guarded(error, [&] {
    if (state == nullptr) return missing("state");
    return state->model->model->reset(state->state.get());
  });
}

void ghost_free_state(ghost_state* state) {
  if (state == nullptr) return;
  ghost_model* model = state->model;
  delete state;  // before the model, whose layout it refers to
  release(model);
}

int ghost_feed(ghost_state* state, const uint8_t* bytes, size_t n, float* logits, ghost_error* error) {
  return guarded(error, [&] { return feed(state, bytes, n, true, logits); });
}

int ghost_logits(ghost_state* state, const uint8_t* bytes, size_t n, float* logits, ghost_error* error) {
  return guarded(error, [&] {
    if (logits == nullptr) return missing("logits");
    return feed(state, bytes, n, false, logits);
  });
}

int ghost_step(ghost_state* const* states, const uint8_t* bytes, size_t count, float* logits, ghost_error* error) {
  return guarded(error, [&] {
    if (states == nullptr) return missing("states");
    if (bytes == nullptr) return missing("bytes");
    if (count < 1 || count > INT32_MAX) return Status::error("The number of states must be in 1..2147483647.");
    ghost::Buffer<ghost::State*> streams;
    if (!streams.allocate(count)) return Status::error("There is not enough memory for a list of the states.");
    for (size_t i = 0; i < count; ++i) {
      if (states[i] == nullptr) return missing(("states[" + std::to_string(i) + "]").c_str());
      if (states[i]->model != states[0]->model) {
        return Status::error("states[" + std::to_string(i) + "] is of another model than states[0]; step the states of "
                             "each model in a call of its own.");
      }
      streams[i] = states[i]->state.get();
    }
    return states[0]->model->model->step(streams.data(), bytes, static_cast<int64_t>(count), logits, nullptr);
  });
}

ghost_sampling ghost_greedy(void) { return {0.0f, 0, 1.0f, 0.0f, 0}; }

int ghost_choose(ghost_model* model, const float* logits, const ghost_sampling* sampling, uint64_t step, uint8_t* byte,
                 ghost_error* error) {
  return guarded(error, [&] {
    if (model == nullptr) return missing("model");
    if (logits == nullptr) return missing("logits");
    if (byte == nullptr) return missing("byte");
    const ghost_sampling how = sampling == nullptr ? ghost_greedy() : *sampling;
    if (Status status = check_sampling(how); !status.ok()) return status;
    const int choice = model->model->choose(logits, options_of(how), step);
    if (choice < 0) return Status::error("The logits are not finite.");
    *byte = static_cast<uint8_t>(choice);
    return Status();
  });
}

int ghost_generate(ghost_state* state, const uint8_t* prompt, size_t n, const ghost_sampling* sampling,
                   size_t max_bytes, ghost_on_byte on_byte, void* context, int* reached_eos, ghost_error* error) {
  struct Sink {
    ghost_on_byte on_byte;
    void* context;
  };
  return guarded(error, [&] {
    if (state == nullptr) return missing("state");
    if (prompt == nullptr) return missing("prompt");
    if (on_byte == nullptr) return missing("on_byte");
    if (n < 1 || n > INT32_MAX) return Status::error("The number of bytes must be in 1..2147483647.");
    const ghost_sampling how = sampling == nullptr ? ghost_greedy() : *sampling;
    if (Status status = check_sampling(how); !status.ok()) return status;
    Sink sink{on_byte, context};
    ghost::Continuation stream;
    stream.state = state->state.get();
    stream.prompt = prompt;
    stream.n = static_cast<int64_t>(n);
    stream.sampling = options_of(how);
    stream.max_bytes = max_bytes > INT32_MAX ? INT32_MAX : static_cast<int64_t>(max_bytes);
    const auto take = [](void* to, int64_t, uint8_t byte) {
      const Sink& sink = *static_cast<Sink*>(to);
      return sink.on_byte(sink.context, byte) == 0;
    };
    const Status status = state->model->model->generate(&stream, 1, take, &sink);
    if (reached_eos != nullptr) *reached_eos = stream.reached_eos ? 1 : 0;
    return status;
  });
}

int ghost_measure(ghost_model* model, int repeats, ghost_speed* speed, ghost_error* error) {
  return guarded(error, [&] {
    if (model == nullptr) return missing("model");
    if (speed == nullptr) return missing("speed");
    ghost::Speed found;
    if (Status status = ghost::measure_speed(model->model.get(), repeats, &found); !status.ok()) return status;
    *speed = {spread_of(found.prefill), spread_of(found.decode), spread_of(found.first_byte), found.products,
              found.updates, found.peaks == nullptr ? nullptr : found.peaks->instruction,
              spread_of(found.integer_peak), spread_of(found.float_peak), spread_of(found.times_floor)};
    return Status();
  });
}
