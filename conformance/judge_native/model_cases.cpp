// The vectors of a packed model.
#include <cstring>
#include <memory>

#include "components.h"
#include "model.h"

namespace judge {
namespace {

void require(const ghost::Status& status) {
  if (!status.ok()) throw BadFile(status.message());
}

void set_memory(ghost::Model& model, const Case& vectors) {
  if (vectors.find("argument/memory.keys") == nullptr) return;
  const Array keys = vectors.array("memory.keys", {-1, model.config().d_model});
  const Tensor& values = vectors.at("argument/memory.values");
  const Tensor& counts = vectors.at("argument/memory.counts");
  const int64_t entries = keys.shape[0];
  if (values.dtype != "U8" || values.shape != std::vector<int64_t>{entries, ghost::kValueBytes} ||
      counts.dtype != "I32" || counts.shape != std::vector<int64_t>{entries} || entries == 0) {
    vectors.refuse("has a memory of the wrong type or shape");
  }
  std::vector<int32_t> numbers;
  for (int64_t i = 0; i < entries; ++i) numbers.push_back(static_cast<int32_t>(counts.number(i)));
  require(model.set_memory(keys.values.data(), values.data, numbers.data(), entries));
}

bool is_integer(const ghost::StateArray& array) {
  return array.kind == ghost::StateArray::kPosition || array.kind == ghost::StateArray::kCount;
}

int64_t size_of(const ghost::StateArray& array) {
  int64_t size = 1;
  for (const int n : array.shape) size *= n;
  return is_integer(array) ? 1 : size;
}

void set_state(ghost::State* state, const Case& vectors) {
  const std::vector<ghost::StateArray>& arrays = state->layout().arrays;
  if (vectors.find("argument/state." + arrays[0].name) == nullptr) return;
  for (size_t i = 0; i < arrays.size(); ++i) {
    const Tensor& tensor = vectors.at("argument/state." + arrays[i].name);
    if (tensor.dtype != (is_integer(arrays[i]) ? "I32" : "F32") || tensor.size() != size_of(arrays[i])) {
      vectors.refuse("has a state of the wrong type or shape");
    }
    const std::vector<uint8_t> aligned(tensor.data, tensor.data + tensor.nbytes);
    state->write(i, aligned.data());
  }
}

void get_state(const ghost::State& state, Outputs* found) {
  const std::vector<ghost::StateArray>& arrays = state.layout().arrays;
  for (size_t i = 0; i < arrays.size(); ++i) {
    std::vector<float>& values = (*found)["state." + arrays[i].name];
    values.resize(static_cast<size_t>(size_of(arrays[i])));
    if (is_integer(arrays[i])) {
      int32_t integer = 0;
      state.read(i, &integer);
      values[0] = static_cast<float>(integer);
    } else {
      state.read(i, values.data());
    }
  }
}

}  // namespace

Outputs run_model(const std::string& file, const std::string& level, const Case& vectors) {
  std::unique_ptr<ghost::Model> model;
  std::unique_ptr<ghost::State> state;
  require(ghost::Model::load(file, static_cast<int>(vectors.integer("threads", 1)), level, &model));
  require(model->new_state(&state));
  set_state(state.get(), vectors);
  set_memory(*model, vectors);
  const Tensor& tokens = vectors.at("argument/tokens");
  if (tokens.dtype != "U8" || tokens.shape.size() != 1) vectors.refuse("has tokens of the wrong type or shape");
  const auto d = static_cast<size_t>(model->config().d_model);
  const auto n = static_cast<size_t>(tokens.size());
  std::vector<float> logits(n * ghost::kVocabulary), hidden(n * d);
  size_t at = 0;
  for (const int64_t chunk : vectors.integers("chunks")) {
    const auto size = static_cast<size_t>(chunk);
    if (size == 0 || size > n - at) vectors.refuse("has chunks that are not its tokens");
    require(model->forward(state.get(), tokens.data + at, chunk, false, logits.data() + at * ghost::kVocabulary,
                           hidden.data() + at * d));
    at += size;
  }
  if (at != n) vectors.refuse("has chunks that are not its tokens");
  const std::string& config = model->config_json();
  Outputs found{{"logits", logits}, {"hidden", hidden}, {"config", {config.begin(), config.end()}}};
  get_state(*state, &found);
  return found;
}

}  // namespace judge
