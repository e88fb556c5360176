#include <cstring>

#include "cases.h"
#include "sampling.h"

namespace judge {

Outputs choose_byte(const ghost::Kernels&, const Case& vectors) {
  const Array logits = vectors.array("logits", {-1, ghost::kVocabulary});
  const Tensor& steps = vectors.at("argument/steps");
  if (steps.dtype != "U64" || steps.shape != std::vector<int64_t>{logits.shape[0]}) {
    vectors.refuse("has an argument steps of the wrong type or shape");
  }
  ghost::SamplingOptions options;
  options.temp = static_cast<float>(vectors.number("temp", 0));
  options.top_k = static_cast<int>(vectors.integer("top_k", 0));
  options.top_p = static_cast<float>(vectors.number("top_p", 1));
  options.min_p = static_cast<float>(vectors.number("min_p", 0));
  options.seed = vectors.word("seed");
  std::vector<float> bytes;
  for (int t = 0; t < logits.shape[0]; ++t) {
    uint64_t step = 0;
    std::memcpy(&step, steps.data + 8 * static_cast<size_t>(t), sizeof step);
    bytes.push_back(static_cast<float>(ghost::choose_byte(logits.row(t), options, step)));
  }
  return {{"bytes", bytes}};
}

}  // namespace judge
