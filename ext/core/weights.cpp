#include "weights.h"

#include <initializer_list>

#include "safetensors.h"
#include "source.h"

namespace ghost {
namespace {

constexpr int kTritsPerByte = 5;
constexpr char kFormat[] = "ghost-packed";

// Takes tensors from a container and checks them. The first error stays; after it everything else does nothing, so the
// loading code below reads as a list.
class Loader {
 public:
  Loader(const std::string& path, const Container& container, Source* source, int together, Arena* arena)
      : path_(path), container_(container), source_(*source), together_(together), arena_(*arena) {}

  const Status& status() const { return status_; }
  size_t taken() const { return taken_; }
  size_t bytes() const { return bytes_; }
  int64_t parameters() const { return parameters_; }

  void no_memory() { fail("there is not enough memory to load it"); }

  void vector(const std::string& name, int n, Vector* out) {
    Buffer<uint8_t> data;
    if (!halves(name, n, &data) || !allocate(out, static_cast<size_t>(padded(n)))) return;
    for (int i = 0; i < n; ++i) (*out)[static_cast<size_t>(i)] = Halves{data.data()}[i];
  }

  void scalar(const std::string& name, float* out) {
    Buffer<uint8_t> data;
    if (halves(name, 1, &data)) *out = Halves{data.data()}[0];
  }

  // A ternary matrix whose rows become several matrices, in their order.
  struct Part {
    int rows;
    Matrix* matrix;
  };

  void matrix(const std::string& name, std::initializer_list<Part> parts, int columns) {
    int rows = 0;
    for (const Part& part : parts) rows += part.rows;
    const TensorInfo* trits = take_trits(name, rows, columns);
    Buffer<uint8_t> scale;
    if (!halves(name + ".scale", rows, &scale)) return;
    TritReader reader(range(trits), int64_t{rows} * columns);
    int first = 0;
    for (const Part& part : parts) {
      const bool built = part.matrix->build(&reader, Halves{scale.data() + 2 * first}, part.rows, columns, together_,
                                            &arena_);
      if (!built) return no_memory();
      first += part.rows;
      bytes_ += part.matrix->bytes();
    }
    check_trits(name, reader);
  }

  void matrix(const std::string& name, int rows, int columns, Matrix* out) { matrix(name, {{rows, out}}, columns); }

  void codebook_matrix(const std::string& name, const Buffer<uint8_t>& codebook, int rows, int columns, int group,
                       Matrix* out) {
    const TensorInfo* trits = take_trits(name, rows, columns);
    const TensorInfo* index = take(name + ".index", Dtype::U8, {rows, (columns + group - 1) / group});
    if (!status_.ok()) return;
    TritReader reader(range(trits), int64_t{rows} * columns);
    if (!out->build(&reader, range(index), Halves{codebook.data()}, rows, columns, group, together_, &arena_)) {
      return no_memory();
    }
    bytes_ += out->bytes();
    check_trits(name, reader);
  }

  // The bytes of n float16 numbers; false after an error.
  bool halves(const std::string& name, int n, Buffer<uint8_t>* out) {
    const TensorInfo* tensor = take(name, Dtype::F16, {n});
    if (tensor == nullptr) return false;
    if (!out->allocate(static_cast<size_t>(tensor->nbytes))) return no_memory(), false;
    return source_.read(tensor->offset, out->size(), out->data()) || check_source();
  }

  // int8 rows as floats: element (row, column) goes to out[place(row, column)].
  template <typename Place>
  void int8_rows(const std::string& name, int rows, int columns, size_t size, Vector* out, Place place) {
    if (!allocate(out, size)) return;
    each_int8_row(name, rows, columns, [&](int r, const int8_t* row, float scale) {
      for (int c = 0; c < columns; ++c) (*out)[place(r, c)] = static_cast<float>(row[c]) * scale;
    });
  }

  void embedding(const std::string& name, int columns, Embedding* out) {
    if (!out->allocate(columns)) return no_memory();
    bytes_ += out->bytes();
    each_int8_row(name, kVocabulary, columns,
                  [&](int r, const int8_t* row, float scale) { out->set_row(r, row, scale); });
  }

 private:
  void fail(const std::string& what) {
    if (status_.ok()) status_ = Status::error(path_ + ": " + what + ".");
  }

  // False, and the source's error if it has one.
  bool check_source() {
    if (status_.ok()) status_ = source_.status();
    return false;
  }

  Range range(const TensorInfo* tensor) { return {&source_, tensor->offset, tensor->nbytes}; }

  bool allocate(Vector* out, size_t size) {
    if (!status_.ok()) return false;
    if (!out->allocate(size)) return no_memory(), false;
    bytes_ += out->bytes();
    return true;
  }

  // The tensor of exactly this type and shape, or nullptr.
  const TensorInfo* take(const std::string& name, Dtype dtype, std::initializer_list<int64_t> shape) {
    if (!status_.ok()) return nullptr;
    const TensorInfo* tensor = container_.find(name);
    if (tensor == nullptr) {
      fail("tensor " + name + " is missing; the file does not fit its own config");
      return nullptr;
    }
    bool fits = tensor->dtype == dtype && tensor->shape.size() == shape.size();
    std::string expected;
    size_t i = 0;
    for (const int64_t size : shape) {
      fits = fits && tensor->shape[i] == static_cast<uint64_t>(size);
      expected += (i++ > 0 ? ", " : "") + std::to_string(size);
    }
    if (!fits) {
      fail("tensor " + name + " should be " + dtype_name(dtype) + " [" + expected + "]");
      return nullptr;
    }
    ++taken_;
    parameters_ += parameters_of(*tensor);
    return tensor;
  }

  const TensorInfo* take_trits(const std::string& name, int rows, int columns) {
    parameters_ += int64_t{rows} * columns + rows;  // and the thresholds, which have done their work
    return take(name + ".trits", Dtype::U8, {(int64_t{rows} * columns + kTritsPerByte - 1) / kTritsPerByte});
  }

  void check_trits(const std::string& name, const TritReader& reader) {
    check_source();
    if (reader.fault() == nullptr) return;
    fail("tensor " + name + ".trits " + reader.fault() + "; the file is damaged, pack the model again");
  }

  template <typename Row>
  void each_int8_row(const std::string& name, int rows, int columns, Row use) {
    const TensorInfo* tensor = take(name, Dtype::I8, {rows, columns});
    Buffer<uint8_t> scale;
    if (!halves(name + "_scale", rows, &scale)) return;
    source_.start(tensor->offset, tensor->nbytes);
    for (int r = 0; r < rows; ++r) {
      const uint8_t* bytes = source_.next(static_cast<size_t>(columns));
      if (bytes == nullptr) return (void)check_source();
      const int8_t* row = reinterpret_cast<const int8_t*>(bytes);
      for (int c = 0; c < columns; ++c) {
        if (row[c] == -128) return fail("tensor " + name + " holds -128; the file is damaged, pack the model again");
      }
      use(r, row, Halves{scale.data()}[r]);
    }
  }

  const std::string& path_;
  const Container& container_;
  Source& source_;
  const int together_;  // blocks of a strip of the matrices
  Arena& arena_;
  Status status_;
  size_t taken_ = 0;
  size_t bytes_ = 0;
  int64_t parameters_ = 0;
};

void load_mixer(Loader* loader, const std::string& name, const Config& config, const Kernels& kernels,
                MixerWeights* w) {
  const int d = config.d_model, E = config.d_inner(), N = config.d_state, R = config.dt_rank, K = config.d_conv;
  loader->matrix(name + ".in_proj", {{E, &w->in_x}, {E, &w->in_z}}, d);
  const size_t stride = static_cast<size_t>(padded(E)), conv_stride = static_cast<size_t>(row_stride(E));
  loader->int8_rows(name + ".conv1d.weight", E, K, conv_stride * K, &w->conv_weight,
                    [&](int channel, int tap) { return tap * conv_stride + channel; });
  loader->vector(name + ".conv1d.bias", E, &w->conv_bias);
  loader->matrix(name + ".x_proj", R + 2 * N, E, &w->x);
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
  Buffer<uint8_t> codebook;
  if (!loader->halves(layer + ".ffn.codebook", kVocabulary, &codebook)) return;
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
  Source source;
  if (Status status = source.open(path); !status.ok()) return status;
  const Result<Container> container = read_container(&source, kFormat, path);
  if (!container.ok()) return container.status;
  const std::string* config = container.value.find_metadata("config");
  if (config == nullptr) return Status::error(path + ": the metadata has no config; it is no packed Ghost model.");
  weights->config_json = *config;
  if (Status status = parse_config(*config, &weights->config); !status.ok()) {
    return Status::error(path + ": " + status.message() + "; it was not written by this version of Ghost.");
  }
  weights->arena.expect(source.size());
  Loader loader(path, container.value, &source, kernels.together, &weights->arena);
  load_all(&loader, kernels, weights);
  if (!loader.status().ok()) return loader.status();
  if (loader.taken() != container.value.tensors.size()) {
    return Status::error(path + ": it holds tensors that are not part of the model its config describes.");
  }
  weights->bytes = loader.bytes();
  weights->parameters = loader.parameters();
  weights->storage = storage_of(container.value, source.size());
  return Status();
}

}  // namespace ghost
