#include "weights.h"

#include <cerrno>
#include <cstdio>

#include "safetensors.h"

namespace ghost {
namespace {

constexpr int kTritsPerByte = 5;
constexpr int kLargestTritByte = 242;
constexpr char kFormat[] = "ghost-packed";

Status read_file(const std::string& path, Buffer<uint8_t>* data) {
  const auto failure = [&](const std::string& what) {
    return Status::error("Cannot read " + path + ": " + what + ".");
  };
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) return failure(std::strerror(errno));
  const bool sought = std::fseek(file, 0, SEEK_END) == 0;
  const long size = sought ? std::ftell(file) : -1;
  Status status;
  if (size < 0 || std::fseek(file, 0, SEEK_SET) != 0) {
    status = failure("it is not a regular file");
  } else if (!data->allocate(static_cast<size_t>(size))) {
    status = failure("there is not enough memory");
  } else if (std::fread(data->data(), 1, data->size(), file) != data->size()) {
    status = failure(errno != 0 ? std::strerror(errno) : "it became shorter while it was read");
  }
  std::fclose(file);
  return status;
}

// Takes tensors from a container and checks them. The first error stays; after it everything else does nothing, so the
// loading code below reads as a list.
class Loader {
 public:
  Loader(const std::string& path, const Container& container) : path_(path), container_(container) {}

  const Status& status() const { return status_; }
  size_t taken() const { return taken_; }
  size_t bytes() const { return bytes_; }

  void no_memory() { fail("there is not enough memory to load it"); }

  void vector(const std::string& name, int n, Vector* out) {
    const uint8_t* data = take(name, Dtype::F16, {n});
    if (data == nullptr || !allocate(out, static_cast<size_t>(padded(n)))) return;
    for (int i = 0; i < n; ++i) (*out)[static_cast<size_t>(i)] = Halves{data}[i];
  }

  void scalar(const std::string& name, float* out) {
    const uint8_t* data = take(name, Dtype::F16, {1});
    if (data != nullptr) *out = Halves{data}[0];
  }

  // The trits and scales of a ternary matrix, to be built whole or by rows.
  struct Ternary {
    const uint8_t* trits = nullptr;
    Halves scale{nullptr};
    int columns = 0;
  };

  Ternary ternary(const std::string& name, int rows, int columns) {
    const uint8_t* trits = take_trits(name, rows, columns);
    const uint8_t* scale = take(name + ".scale", Dtype::F16, {rows});
    return {trits, {scale}, columns};
  }

  void build(const Ternary& source, int first, int rows, Matrix* out) {
    if (!status_.ok()) return;
    if (!out->build(source.trits, source.scale, first, rows, source.columns)) return no_memory();
    bytes_ += out->bytes();
  }

  void matrix(const std::string& name, int rows, int columns, Matrix* out) {
    build(ternary(name, rows, columns), 0, rows, out);
  }

  void codebook_matrix(const std::string& name, const uint8_t* codebook, int rows, int columns, int group,
                       Matrix* out) {
    const uint8_t* trits = take_trits(name, rows, columns);
    const uint8_t* index = take(name + ".index", Dtype::U8, {rows, (columns + group - 1) / group});
    if (!status_.ok()) return;
    if (!out->build(trits, index, Halves{codebook}, rows, columns, group)) return no_memory();
    bytes_ += out->bytes();
  }

  const uint8_t* codebook(const std::string& name) { return take(name, Dtype::F16, {kVocabulary}); }

  // int8 rows as floats: out[i * row_stride ...] is left to `place(row, column)`.
  template <typename Place>
  void int8_rows(const std::string& name, int rows, int columns, size_t size, Vector* out, Place place) {
    const int8_t* data = take_int8(name, rows, columns);
    const uint8_t* scale = take(name + "_scale", Dtype::F16, {rows});
    if (!status_.ok() || !allocate(out, size)) return;
    for (int r = 0; r < rows; ++r) {
      const float s = Halves{scale}[r];
      for (int c = 0; c < columns; ++c) (*out)[place(r, c)] = static_cast<float>(data[int64_t{r} * columns + c]) * s;
    }
  }

  void embedding(const std::string& name, int columns, Embedding* out) {
    const int8_t* rows = take_int8(name, kVocabulary, columns);
    const uint8_t* scale = take(name + "_scale", Dtype::F16, {kVocabulary});
    if (!status_.ok()) return;
    if (!out->build(rows, Halves{scale}, columns)) return no_memory();
    bytes_ += out->bytes();
  }

 private:
  void fail(const std::string& what) {
    if (status_.ok()) status_ = Status::error(path_ + ": " + what + ".");
  }

  bool allocate(Vector* out, size_t size) {
    if (!out->allocate(size)) no_memory();
    if (!status_.ok()) return false;
    bytes_ += out->bytes();
    return true;
  }

  // The data of a tensor of exactly this type and shape, or nullptr.
  const uint8_t* take(const std::string& name, Dtype dtype, const std::vector<int>& shape) {
    if (!status_.ok()) return nullptr;
    const TensorView* tensor = container_.find(name);
    if (tensor == nullptr) {
      fail("tensor " + name + " is missing; the file does not fit its own config");
      return nullptr;
    }
    bool fits = tensor->dtype == dtype && tensor->shape.size() == shape.size();
    std::string expected;
    for (size_t i = 0; i < shape.size(); ++i) {
      fits = fits && tensor->shape[i] == static_cast<uint64_t>(shape[i]);
      expected += (i > 0 ? ", " : "") + std::to_string(shape[i]);
    }
    if (!fits) {
      fail("tensor " + name + " should be " + dtype_name(dtype) + " [" + expected + "]");
      return nullptr;
    }
    ++taken_;
    return tensor->data;
  }

  const uint8_t* take_trits(const std::string& name, int rows, int columns) {
    const int64_t size = int64_t{rows} * columns;
    const int64_t bytes = (size + kTritsPerByte - 1) / kTritsPerByte;
    const uint8_t* data = take(name + ".trits", Dtype::U8, {static_cast<int>(bytes)});
    if (data == nullptr) return nullptr;
    for (int64_t i = 0; i < bytes; ++i) {
      if (data[i] <= kLargestTritByte) continue;
      fail("tensor " + name + ".trits holds a byte above 242; the file is damaged, pack the model again");
      return nullptr;
    }
    int digits = static_cast<int>(size % kTritsPerByte), rest = data[bytes - 1];
    for (int i = 0; i < digits; ++i) rest /= 3;
    for (; digits > 0 && digits < kTritsPerByte; ++digits, rest /= 3) {
      if (rest % 3 == 1) continue;
      fail("tensor " + name + ".trits has padding trits that are not zero; the file is damaged, pack the model again");
      return nullptr;
    }
    return data;
  }

  const int8_t* take_int8(const std::string& name, int rows, int columns) {
    const uint8_t* data = take(name, Dtype::I8, {rows, columns});
    if (data == nullptr) return nullptr;
    const int8_t* values = reinterpret_cast<const int8_t*>(data);
    for (int64_t i = 0; i < int64_t{rows} * columns; ++i) {
      if (values[i] != -128) continue;
      fail("tensor " + name + " holds -128; the file is damaged, pack the model again");
      return nullptr;
    }
    return values;
  }

  const std::string& path_;
  const Container& container_;
  Status status_;
  size_t taken_ = 0;
  size_t bytes_ = 0;
};

void load_mixer(Loader* loader, const std::string& name, const Config& config, const Kernels& kernels,
                MixerWeights* w) {
  const int d = config.d_model, E = config.d_inner(), N = config.d_state, R = config.dt_rank, K = config.d_conv;
  const Loader::Ternary in = loader->ternary(name + ".in_proj", 2 * E, d);
  loader->build(in, 0, E, &w->in_x);
  loader->build(in, E, E, &w->in_z);
  const size_t stride = static_cast<size_t>(padded(E));
  loader->int8_rows(name + ".conv1d.weight", E, K, stride * K, &w->conv_weight,
                    [&](int channel, int tap) { return tap * stride + channel; });
  loader->vector(name + ".conv1d.bias", E, &w->conv_bias);
  const Loader::Ternary x = loader->ternary(name + ".x_proj", R + 2 * N, E);
  loader->build(x, 0, R, &w->x_r);
  loader->build(x, R, 2 * N, &w->x_bc);
  loader->matrix(name + ".dt_proj", E, R, &w->dt);
  loader->vector(name + ".dt_proj.bias", E, &w->dt_bias);
  const auto scan_index = [&](int channel, int n) {
    return (static_cast<size_t>(channel / kBlock) * N + n) * kBlock + channel % kBlock;
  };
  loader->int8_rows(name + ".A_log", E, N, stride * N, &w->A, scan_index);
  loader->vector(name + ".D", E, &w->D);
  loader->matrix(name + ".out_proj", d, E, &w->out);
  if (!loader->status().ok()) return;
  kernels.map(Function::kExp, w->A.data(), w->A.data(), static_cast<int64_t>(w->A.size()));
  for (float& a : w->A) a = -a;
}

void load_projections(Loader* loader, const std::string& name, int d, ProjectionWeights* w) {
  loader->matrix(name + ".q_proj", d, d, &w->q);
  loader->matrix(name + ".k_proj", d, d, &w->k);
  loader->matrix(name + ".v_proj", d, d, &w->v);
  loader->matrix(name + ".o_proj", d, d, &w->o);
}

void load_memory(Loader* loader, const std::string& layer, int d, const Kernels& kernels, LayerWeights* w) {
  loader->vector(layer + ".norm_memory.weight", d, &w->norm_memory);
  load_projections(loader, layer + ".memory", d, &w->memory);
  loader->vector(layer + ".memory.null_key", d, &w->null_key);
  loader->scalar(layer + ".memory.score_scale", &w->score_scale);
  loader->vector(layer + ".memory.gate.weight", d, &w->memory_gate);
  loader->scalar(layer + ".memory.gate.bias", &w->memory_gate_bias);
  if (loader->status().ok()) kernels.unit(w->null_key.data(), d, w->null_key.data());
}

void load_layer(Loader* loader, int i, const Config& config, const Kernels& kernels, LayerWeights* w) {
  const std::string layer = "layers." + std::to_string(i);
  const int d = config.d_model, F = config.d_ff, G = config.codebook_group;
  w->has_attention = contains(config.attention_layers, i);
  w->has_memory = contains(config.memory_layers, i);
  w->mod = contains(config.mod_layers, i);
  w->depth = contains(config.depth_layers, i);
  w->surprise = contains(config.surprise_layers, i);
  if (w->mod) {
    loader->vector(layer + ".router.weight", d, &w->router);
    loader->scalar(layer + ".router.bias", &w->router_bias);
  }
  loader->vector(layer + ".norm_mixer.weight", d, &w->norm_mixer);
  load_mixer(loader, layer + ".mixer", config, kernels, &w->mixer);
  if (w->has_attention) {
    loader->vector(layer + ".norm_attention.weight", d, &w->norm_attention);
    load_projections(loader, layer + ".attention", d, &w->attention);
  }
  if (w->has_memory) load_memory(loader, layer, d, kernels, w);
  if (F == 0) return;
  loader->vector(layer + ".norm_ffn.weight", d, &w->norm_ffn);
  const uint8_t* codebook = loader->codebook(layer + ".ffn.codebook");
  loader->codebook_matrix(layer + ".ffn.gate_proj", codebook, F, d, G, &w->gate);
  loader->codebook_matrix(layer + ".ffn.up_proj", codebook, F, d, G, &w->up);
  loader->codebook_matrix(layer + ".ffn.down_proj", codebook, d, F, G, &w->down);
}

void load_all(Loader* loader, const Kernels& kernels, Weights* w) {
  const Config& config = w->config;
  const int d = config.d_model;
  loader->embedding("embedding.weight", d, &w->embedding);
  loader->matrix("tokenizer.conv1d", d, config.d_conv * d, &w->tokenizer);
  loader->vector("tokenizer.conv1d.bias", d, &w->tokenizer_bias);
  if (!config.depth_layers.empty() || !config.attention_layers.empty()) {
    loader->vector("byte_importance", kVocabulary, &w->byte_importance);
  }
  if (!config.depth_layers.empty()) {
    loader->vector("depth.weight", d, &w->depth);
    loader->scalar("depth.bias", &w->depth_bias);
  }
  if (!config.surprise_layers.empty()) {
    loader->matrix("surprise.head", kVocabulary, d, &w->surprise);
    loader->vector("surprise.head.bias", kVocabulary, &w->surprise_bias);
  }
  if (!loader->status().ok()) return;
  if (!w->layers.allocate(static_cast<size_t>(config.n_layers))) return loader->no_memory();
  for (int i = 0; i < config.n_layers && loader->status().ok(); ++i) {
    load_layer(loader, i, config, kernels, &w->layers[static_cast<size_t>(i)]);
  }
  loader->vector("norm_f.weight", d, &w->norm_f);
}

}  // namespace

Status load_weights(const std::string& path, const Kernels& kernels, Weights* weights) {
  Buffer<uint8_t> data;
  if (Status status = read_file(path, &data); !status.ok()) return status;
  const Result<Container> container = read_container(data.data(), data.size(), kFormat, path);
  if (!container.ok()) return container.status;
  const std::string* config = container.value.find_metadata("config");
  if (config == nullptr) return Status::error(path + ": the metadata has no config; it is no packed Ghost model.");
  weights->config_json = *config;
  if (Status status = parse_config(*config, &weights->config); !status.ok()) {
    return Status::error(path + ": " + status.message() + "; it was not written by this version of Ghost.");
  }
  Loader loader(path, container.value);
  load_all(&loader, kernels, weights);
  if (!loader.status().ok()) return loader.status();
  if (loader.taken() != container.value.tensors.size()) {
    return Status::error(path + ": it holds tensors that are not part of the model its config describes.");
  }
  weights->bytes = loader.bytes();
  return Status();
}

}  // namespace ghost
