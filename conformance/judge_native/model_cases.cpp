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

}  // namespace

Outputs run_model(const std::string& file, const std::string& level, const Case& vectors) {
  std::unique_ptr<ghost::Model> model;
  std::unique_ptr<ghost::State> state;
  require(ghost::Model::load(file, 1, level, &model));
  require(model->new_state(&state));
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
  return {{"logits", logits}, {"hidden", hidden}};
}

}  // namespace judge
