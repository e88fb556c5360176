#include "attention.h"
#include "cases.h"
#include "rows.h"

namespace judge {
namespace {

struct Sizes {
  int batch, tokens, d, added, slots, heads, stride, count;
};

// One row of a batch: (rows, columns) of an array (batch, rows, columns).
Rows batch_row(const Array& x, int b, int rows, int columns) {
  return Rows(rows, columns, x.values.data() + static_cast<size_t>(b) * static_cast<size_t>(rows) *
                                                   static_cast<size_t>(columns));
}

Sizes sizes_of(const Case& vectors, const Array& q) {
  Sizes s{q.shape[0], q.shape[1], q.shape[2], 0, 0, 0, 0, 0};
  s.slots = static_cast<int>(vectors.integer("slots", 0));
  s.heads = static_cast<int>(vectors.integer("n_heads", 0));
  s.stride = static_cast<int>(vectors.integer("stride", 0));
  s.count = static_cast<int>(vectors.integer("past.count", 0));
  constexpr int kMost = 1 << 20;
  if (s.slots < 1 || s.slots > kMost || s.stride < 1 || s.stride > kMost || s.count > kMost || s.heads < 1 ||
      s.d % s.heads != 0) {
    vectors.refuse("has settings out of their range");
  }
  const int first = ghost::first_strided(s.count, s.stride);
  s.added = s.tokens <= first ? 0 : (s.tokens - first + s.stride - 1) / s.stride;
  return s;
}

}  // namespace

Outputs strided_attention(const ghost::Kernels& kernels, const Case& vectors) {
  const Array q = vectors.array("q", {-1, -1, -1});
  const Sizes s = sizes_of(vectors, q);
  const Array k = vectors.array("k", {s.batch, s.added, s.d}), v = vectors.array("v", {s.batch, s.added, s.d});
  const Array bias = vectors.array("bias", {s.batch, s.added});
  Array keys{std::vector<float>(static_cast<size_t>(s.batch) * static_cast<size_t>(s.slots) * static_cast<size_t>(s.d)),
             {s.batch, s.slots, s.d}};
  Array values = keys, slot_bias{std::vector<float>(static_cast<size_t>(s.batch) * static_cast<size_t>(s.slots)),
                                 {s.batch, s.slots}};
  if (vectors.find("argument/past.keys") != nullptr) {
    keys = vectors.array("past.keys", {s.batch, s.slots, s.d});
    values = vectors.array("past.values", {s.batch, s.slots, s.d});
    slot_bias = vectors.array("past.bias", {s.batch, s.slots});
  }
  Outputs found{{"present.count", {static_cast<float>(s.count + s.tokens)}}};
  for (int b = 0; b < s.batch; ++b) {
    Rows queries = batch_row(q, b, s.tokens, s.d), new_keys = batch_row(k, b, s.added, s.d);
    Rows new_values = batch_row(v, b, s.added, s.d), new_bias = batch_row(bias, b, 1, s.added);
    Rows ring_keys = batch_row(keys, b, s.slots, s.d), ring_values = batch_row(values, b, s.slots, s.d);
    Rows ring_bias = batch_row(slot_bias, b, 1, s.slots), out(s.tokens, s.d), scores(1, s.slots);
    const ghost::AttentionArguments arguments{ring_keys.data(),  ring_values.data(), ring_bias.data(),
                                              new_keys.data(),   new_values.data(),  new_bias.data(),
                                              int64_t{s.count},  s.stride,           s.slots,
                                              s.heads,           s.d / s.heads,      out.stride()};
    for (int t = 0; t < s.tokens; ++t) {
      for (int head = 0; head < s.heads; ++head) {
        ghost::answer_head(kernels, arguments, queries.row(t), arguments.count + t, head, scores.data(), out.row(t));
      }
    }
    ghost::store_new_slots(arguments, s.tokens);
    out.append_to(found["out"]);
    ring_keys.append_to(found["present.keys"]);
    ring_values.append_to(found["present.values"]);
    ring_bias.append_to(found["present.bias"]);
  }
  return found;
}

}  // namespace judge
