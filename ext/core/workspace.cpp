#include "workspace.h"

#include <algorithm>

namespace ghost {
namespace {

int widest_row(const Config& config) {
  return padded(std::max({config.d_conv * config.d_model, config.d_inner(), config.d_ff, config.dt_rank}));
}

int most_groups(const Config& config) {
  return (std::max(config.d_model, config.d_ff) + config.codebook_group - 1) / config.codebook_group;
}

}  // namespace

bool QuantisedRows::allocate(const Config& config, int tokens) {
  const size_t n = static_cast<size_t>(tokens);
  width = widest_row(config);
  sums_stride = most_groups(config);
  return q.allocate(n * width) && scale.allocate(n) && sums.allocate(n * sums_stride);
}

bool TokenRows::allocate(const Config& config, int tokens) {
  const size_t n = static_cast<size_t>(tokens);
  d_stride = row_stride(config.d_model);
  p_stride = row_stride(config.dt_rank + 2 * config.d_state);
  return row.allocate(n * d_stride) && projected.allocate(n * p_stride) && gate.allocate(n) && depth.allocate(n) &&
         outer.allocate(config, tokens) && inner.allocate(config, tokens);
}

size_t TokenRows::bytes() const {
  return row.bytes() + projected.bytes() + gate.bytes() + depth.bytes() + outer.bytes() + inner.bytes();
}

bool MemberSpace::allocate(const Config& config) {
  return rows.allocate(config, 1) && embeddings.allocate(static_cast<size_t>(config.d_conv) * config.d_model) &&
         slots.allocate(static_cast<size_t>(padded(config.attention_slots)));
}

bool Workspace::allocate(const Config& config, int team_size) {
  d_stride = row_stride(config.d_model);
  e_stride = row_stride(config.d_inner());
  f_stride = row_stride(config.d_ff);
  const size_t n = kChunk, d = n * d_stride, e = n * e_stride, f = n * f_stride;
  struct Request {
    Vector* vector;
    size_t size;
  };
  const Request requests[] = {
      {&embeddings, n * config.d_conv * config.d_model}, {&h, d}, {&log_q, n * kVocabulary}, {&u, d},
      {&wide, std::max(4 * e, 2 * f)}, {&out, d}, {&query, d}, {&read, d}, {&new_keys, d},
      {&new_values, d}, {&new_bias, n},
  };
  for (const Request& request : requests) {
    if (!request.vector->allocate(request.size)) return false;
    bytes_ += request.vector->bytes();
  }
  float* at = wide.data();
  xc = {at}, z = {at + e}, dt = {at + 2 * e}, y = {at + 3 * e};
  gate = {at}, up = {at + f};
  if (!rows.allocate(config, kChunk) || !members.allocate(static_cast<size_t>(team_size))) return false;
  bytes_ += rows.bytes();
  for (MemberSpace& member : members) {
    if (!member.allocate(config)) return false;
    bytes_ += member.bytes();
  }
  return true;
}

}  // namespace ghost
