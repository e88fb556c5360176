// Times single operations of ggml, the library under llama.cpp, for a caller that takes turns with other contestants.
//
// One command per line on standard input, one answer per line on standard output ("error: ..." when it cannot be done):
//
//   matmul TYPE ROWS COLUMNS TOKENS THREADS REPACK    -> number of the problem, largest error relative to the result's
//   scan CHANNELS STATES TOKENS THREADS               -> the same for ggml_ssm_scan in Mamba-1's form
//   time NUMBER SECONDS                               -> seconds per operation, measured for about SECONDS
//
// Short operations stand 16 times in one graph, so that a graph's start and end weigh little. A matmul quantises its
// activations, as in a model; REPACK 1 stores the weights as llama.cpp does when it loads a model (Q4_0 in x86).
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

namespace {

constexpr int kNodes = 16;
constexpr double kShort = 1 << 22;  // multiply-accumulates or state updates

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<float> uniform(size_t n, float low, float high, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> values(low, high);
  std::vector<float> x(n);
  for (float& v : x) v = values(random);
  return x;
}

// A graph of equal operations on one backend, ready to run.
class Problem {
 public:
  ~Problem() {
    if (backend_ != nullptr) ggml_backend_free(backend_);
    if (pool_ != nullptr) ggml_threadpool_free(pool_);
    for (ggml_backend_buffer_t buffer : buffers_) ggml_backend_buffer_free(buffer);
    for (ggml_context* context : contexts_) ggml_free(context);
  }

  // What went wrong, or "".
  std::string matmul(const std::string& type_name, int64_t rows, int64_t columns, int64_t tokens, int threads,
                     bool repack) {
    ggml_type type = GGML_TYPE_COUNT;
    for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
      const char* name = ggml_type_name(static_cast<ggml_type>(i));
      if (name != nullptr && type_name == name) type = static_cast<ggml_type>(i);
    }
    if (type == GGML_TYPE_COUNT) return "there is no type " + type_name;
    if (columns % ggml_blck_size(type) != 0) {
      return type_name + " needs columns in multiples of " + std::to_string(ggml_blck_size(type));
    }
    ggml_backend_buffer_type_t where = repack ? repacked() : ggml_backend_cpu_buffer_type();
    if (where == nullptr) return "this build has no repacked weights";

    ggml_context* weights = context();
    ggml_tensor* w = ggml_new_tensor_2d(weights, type, columns, rows);
    if (!allocate(weights, where)) return "there is no memory";
    if (repack && w->extra == nullptr) return type_name + " is not repacked on this CPU";

    std::mt19937 random(1);
    std::vector<float> trits(static_cast<size_t>(rows * columns)), x = uniform(columns * tokens, -1, 1, 2);
    for (float& v : trits) v = 0.05f * (static_cast<float>(random() % 3) - 1);
    std::vector<uint8_t> packed(ggml_row_size(type, columns) * static_cast<size_t>(rows));
    ggml_quantize_chunk(type, trits.data(), packed.data(), 0, rows, columns, nullptr);
    ggml_backend_tensor_set(w, packed.data(), 0, packed.size());

    ggml_context* rest = context();
    ggml_tensor* in = ggml_new_tensor_2d(rest, GGML_TYPE_F32, columns, tokens);
    nodes_ = static_cast<double>(rows) * columns * tokens < kShort ? kNodes : 1;
    graph_ = ggml_new_graph(rest);
    for (int i = 0; i < nodes_; ++i) ggml_build_forward_expand(graph_, ggml_mul_mat(rest, w, in));
    if (!allocate(rest, ggml_backend_cpu_buffer_type())) return "there is no memory";
    ggml_backend_tensor_set(in, x.data(), 0, x.size() * sizeof(float));
    start(threads);
    run();

    std::vector<float> y(static_cast<size_t>(rows * tokens));
    ggml_backend_tensor_get(ggml_graph_node(graph_, -1), y.data(), 0, y.size() * sizeof(float));
    double worst = 0, size = 0;
    for (int64_t i = 0; i < rows; i += 17) {
      double sum = 0;
      for (int64_t k = 0; k < columns; ++k) sum += double{trits[i * columns + k]} * x[k];
      size = std::max(size, std::fabs(sum));
      worst = std::max(worst, std::fabs(sum - y[i]));
    }
    error_ = worst / size;
    return "";
  }

  std::string scan(int64_t channels, int64_t states, int64_t tokens, int threads) {
    ggml_context* c = context();
    ggml_tensor* s = ggml_new_tensor_4d(c, GGML_TYPE_F32, states, 1, channels, 1);
    ggml_tensor* x = ggml_new_tensor_4d(c, GGML_TYPE_F32, 1, channels, tokens, 1);
    ggml_tensor* dt = ggml_new_tensor_3d(c, GGML_TYPE_F32, channels, tokens, 1);
    ggml_tensor* a = ggml_new_tensor_2d(c, GGML_TYPE_F32, states, channels);
    ggml_tensor* b = ggml_new_tensor_4d(c, GGML_TYPE_F32, states, 1, tokens, 1);
    ggml_tensor* out = ggml_new_tensor_4d(c, GGML_TYPE_F32, states, 1, tokens, 1);
    ggml_tensor* ids = ggml_new_tensor_1d(c, GGML_TYPE_I32, 1);
    nodes_ = static_cast<double>(channels) * states * tokens < kShort ? kNodes : 1;
    graph_ = ggml_new_graph(c);
    for (int i = 0; i < nodes_; ++i) ggml_build_forward_expand(graph_, ggml_ssm_scan(c, s, x, dt, a, b, out, ids, 1));
    if (!allocate(c, ggml_backend_cpu_buffer_type())) return "there is no memory";
    const std::vector<float> xs = fill(x, -1, 1), dts = fill(dt, -6, 0), as = fill(a, -16, -1), bs = fill(b, -1, 1),
                             cs = fill(out, -1, 1), first = fill(s, -1, 1);
    const int32_t zero = 0;
    ggml_backend_tensor_set(ids, &zero, 0, sizeof zero);
    start(threads);
    run();

    std::vector<float> y(static_cast<size_t>(channels * tokens));
    ggml_backend_tensor_get(ggml_graph_node(graph_, -1), y.data(), 0, y.size() * sizeof(float));
    double worst = 0, size = 0;
    for (int64_t e = 0; e < channels; e += 17) {
      std::vector<double> h(first.begin() + e * states, first.begin() + (e + 1) * states);
      for (int64_t t = 0; t < tokens; ++t) {
        const double step = std::log1p(std::exp(double{dts[t * channels + e]}));
        double sum = 0;
        for (int64_t n = 0; n < states; ++n) {
          h[n] = std::exp(step * as[e * states + n]) * h[n] + step * xs[t * channels + e] * bs[t * states + n];
          sum += h[n] * cs[t * states + n];
        }
        size = std::max(size, std::fabs(sum));
        worst = std::max(worst, std::fabs(sum - y[t * channels + e]));
      }
    }
    error_ = worst / size;
    return "";
  }

  double error() const { return error_; }

  double seconds_per_operation(double seconds) {
    run();
    const double begin = now();
    double end = begin;
    long calls = 0;
    for (long batch = 1; end - begin < seconds; batch = calls) {
      for (long i = 0; i < batch; ++i) run();
      calls += batch;
      end = now();
    }
    return (end - begin) / static_cast<double>(calls * nodes_);
  }

 private:
  static ggml_backend_buffer_type_t repacked() {
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    const auto ask = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts"));
    for (ggml_backend_buffer_type_t* type = ask(device); type != nullptr && *type != nullptr; ++type) {
      if (std::strcmp(ggml_backend_buft_name(*type), "CPU_REPACK") == 0) return *type;
    }
    return nullptr;
  }

  ggml_context* context() {
    contexts_.push_back(ggml_init({size_t{1} << 20, nullptr, true}));
    return contexts_.back();
  }

  bool allocate(ggml_context* context, ggml_backend_buffer_type_t type) {
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors_from_buft(context, type);
    if (buffer == nullptr) return false;
    buffers_.push_back(buffer);
    return true;
  }

  std::vector<float> fill(ggml_tensor* tensor, float low, float high) {
    const std::vector<float> values = uniform(static_cast<size_t>(ggml_nelements(tensor)), low, high, ++seed_);
    ggml_backend_tensor_set(tensor, values.data(), 0, values.size() * sizeof(float));
    return values;
  }

  void start(int threads) {
    backend_ = ggml_backend_cpu_init();
    ggml_threadpool_params parameters = ggml_threadpool_params_default(threads);
    pool_ = ggml_threadpool_new(&parameters);
    ggml_backend_cpu_set_threadpool(backend_, pool_);
    ggml_backend_cpu_set_n_threads(backend_, threads);
  }

  void run() { ggml_backend_graph_compute(backend_, graph_); }

  std::vector<ggml_context*> contexts_;
  std::vector<ggml_backend_buffer_t> buffers_;
  ggml_cgraph* graph_ = nullptr;
  ggml_backend_t backend_ = nullptr;
  ggml_threadpool* pool_ = nullptr;
  int nodes_ = 1;
  unsigned seed_ = 0;
  double error_ = 0;
};

}  // namespace

int main() {
  ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  std::vector<std::unique_ptr<Problem>> problems;
  std::string line, command, type;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    words >> command;
    std::string wrong;
    if (command == "time") {
      size_t number = 0;
      double seconds = 0;
      words >> number >> seconds;
      if (words.fail() || number >= problems.size()) wrong = "there is no such problem";
      else std::printf("%.9g\n", problems[number]->seconds_per_operation(seconds));
    } else {
      auto problem = std::make_unique<Problem>();
      int64_t a = 0, b = 0, tokens = 0;
      int threads = 0;
      bool repack = false;
      if (command == "matmul") words >> type >> a >> b >> tokens >> threads >> repack;
      else if (command == "scan") words >> a >> b >> tokens >> threads;
      else words.setstate(std::ios::failbit);
      if (words.fail()) wrong = "cannot read the command: " + line;
      else if (command == "matmul") wrong = problem->matmul(type, a, b, tokens, threads, repack);
      else wrong = problem->scan(a, b, tokens, threads);
      if (wrong.empty()) {
        std::printf("%zu %.6g\n", problems.size(), problem->error());
        problems.push_back(std::move(problem));
      }
    }
    if (!wrong.empty()) std::printf("error: %s\n", wrong.c_str());
    std::fflush(stdout);
  }
  return 0;
}
