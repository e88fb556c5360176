#include "measure.h"

#include <algorithm>
#include <vector>

#include "stopwatch.h"

namespace ghost {
namespace {

constexpr size_t kPrefill = 1024, kDecode = 256, kPrompt = 64;
constexpr uint8_t kSep = 0xFB;
constexpr double kScanOperations = 26;  // float operations of one canonical update
constexpr double kPeakSeconds = 0.005;  // of a look at a peak
constexpr char kText[] =
    "The quick brown fox jumps over the lazy dog, 0123456789 times; list pods, then kubectl get pods. ";

std::vector<uint8_t> text_of(size_t length) {
  std::vector<uint8_t> text(length);
  for (size_t i = 0; i < length; ++i) text[i] = static_cast<uint8_t>(kText[i % (sizeof kText - 1)]);
  return text;
}

Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median = values.size() % 2 != 0 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

// One turn's figures.
struct Turn {
  double prefill = 0, decode = 0, first_byte = 0, integer_peak = 0, float_peak = 0;  // seconds; peaks per second
  Work work;
};

// Seconds of reading n bytes of the text, `step` of them in a call, with a byte chosen after each call. One state at a
// time is in memory, whose peak is reported.
Status read_text(Model* model, size_t n, size_t step, double* seconds, Work* work) {
  std::unique_ptr<State> state;
  if (Status status = model->new_state(&state); !status.ok()) return status;
  const std::vector<uint8_t> text = text_of(n);
  float logits[kVocabulary];
  const double start = now();
  for (size_t at = 0; at < n; at += step) {
    const Status status = model->forward(state.get(), &text[at], static_cast<int64_t>(step), true, logits, nullptr);
    if (!status.ok()) return status;
    if (model->choose(logits, {}, at) < 0) return Status::error("The model's logits are not finite; it is damaged.");
  }
  *seconds = now() - start;
  *work = work_of(model->config(), *state);
  return Status();
}

Status first_byte(Model* model, double* seconds) {
  std::vector<uint8_t> prompt = text_of(kPrompt);
  prompt.back() = kSep;
  const double start = now();
  std::unique_ptr<State> state;
  if (Status status = model->new_state(&state); !status.ok()) return status;
  Continuation stream;
  stream.state = state.get();
  stream.prompt = prompt.data();
  stream.n = static_cast<int64_t>(prompt.size());
  stream.max_bytes = 1;
  struct Clock {
    double start, first;
  } clock{start, -1};
  const Status status = model->generate(
      &stream, 1,
      [](void* context, int64_t, uint8_t) {
        static_cast<Clock*>(context)->first = now() - static_cast<Clock*>(context)->start;
        return false;
      },
      &clock);
  *seconds = clock.first >= 0 ? clock.first : now() - start;  // it began with the end of the text
  return status;
}

Status take_turn(Model* model, const Peaks* peaks, Turn* turn) {
  Status status = read_text(model, kPrefill, kPrefill, &turn->prefill, &turn->work);
  if (!status.ok()) return status;
  if (peaks != nullptr) turn->integer_peak = limit(peaks->products, kPeakSeconds);
  status = read_text(model, kDecode, 1, &turn->decode, &turn->work);
  if (!status.ok()) return status;
  if (peaks != nullptr) turn->float_peak = limit(peaks->floats, kPeakSeconds);
  return first_byte(model, &turn->first_byte);
}

}  // namespace

Work work_of(const Config& config, const State& state) {
  const double d = config.d_model, e = config.d_inner(), n = config.d_state, r = config.dt_rank;
  Work work;
  work.bytes = state.seen;
  const double seen = static_cast<double>(state.seen), head = 256 * d;
  work.products = seen * (config.d_conv * d * d + head + (config.surprise_layers.empty() ? 0 : head));
  for (int i = 0; i < config.n_layers; ++i) {
    const int64_t count = state.processed[static_cast<size_t>(i)];
    const double processed = static_cast<double>(count);
    work.products += processed * (2 * d * e + e * (r + 2 * n) + r * e + e * d + 3 * d * config.d_ff);
    work.updates += processed * e * n;
    if (!contains(config.attention_layers, i)) continue;
    const int64_t strided = (count + config.attention_stride - 1) / config.attention_stride;  // with keys and values
    work.products += processed * 2 * d * d + static_cast<double>(strided) * 2 * d * d;
  }
  return work;
}

Status measure_speed(Model* model, int repeats, Speed* speed) {
  if (repeats < 1 || repeats > 1000) {
    return Status::error("repeats must be in 1..1000, got " + std::to_string(repeats) + ".");
  }
  speed->peaks = peaks_of(model->level());
  std::vector<Turn> turns(static_cast<size_t>(repeats) + 1);
  for (Turn& turn : turns) {
    if (Status status = take_turn(model, speed->peaks, &turn); !status.ok()) return status;
  }
  turns.erase(turns.begin());  // the warm-up
  const auto spread = [&](auto figure) {
    std::vector<double> values;
    for (const Turn& turn : turns) values.push_back(figure(turn));
    return spread_of(values);
  };
  const Work work = turns.front().work;  // every turn reads the same bytes
  const double bytes = static_cast<double>(work.bytes), threads = model->threads();
  speed->prefill = spread([](const Turn& turn) { return kPrefill / turn.prefill; });
  speed->decode = spread([](const Turn& turn) { return kDecode / turn.decode; });
  speed->first_byte = spread([](const Turn& turn) { return turn.first_byte; });
  speed->products = work.products / bytes;
  speed->updates = work.updates / bytes;
  if (speed->peaks == nullptr) return Status();
  speed->integer_peak = spread([](const Turn& turn) { return turn.integer_peak; });
  speed->float_peak = spread([](const Turn& turn) { return turn.float_peak; });
  speed->times_floor = spread([&](const Turn& turn) {
    const double floor = work.products / turn.integer_peak + work.updates * kScanOperations / turn.float_peak;
    return turn.decode / (floor / threads);
  });
  return Status();
}

}  // namespace ghost
