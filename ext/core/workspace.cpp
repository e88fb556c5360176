#include "workspace.h"

#include <algorithm>

namespace ghost {
namespace {

int most_groups(const Config& config) {
  return (std::max(config.d_model, config.d_ff) + config.codebook_group - 1) / config.codebook_group;
}

}  // namespace

bool QuantisedRows::allocate(int tokens, int columns, int groups) {
  const size_t n = static_cast<size_t>(tokens);
  width = padded(columns);
  sums_stride = groups;
  return q.allocate(n * width) && scale.allocate(n) && sums.allocate(n * sums_stride);
}

bool TokenRows::allocate(const Config& config, int tokens) {
  const size_t n = static_cast<size_t>(tokens);
  d_stride = row_stride(config.d_model);
  p_stride = row_stride(config.dt_rank + 2 * config.d_state);
  return projected.allocate(n * p_stride) && gate.allocate(n) && depth.allocate(n) &&
         outer.allocate(tokens, std::max(config.d_conv * config.d_model, config.d_ff), most_groups(config)) &&
         inner.allocate(tokens, std::max(config.d_inner(), config.dt_rank), 1);
}

size_t TokenRows::bytes() const {
  return projected.bytes() + gate.bytes() + depth.bytes() + outer.bytes() + inner.bytes();
}

bool MemberSpace::allocate(const Config& config) {
  if (!rows.allocate(config, 1) || !row.allocate(static_cast<size_t>(rows.d_stride))) return false;
  rows.row = {row.data()};
  return embeddings.allocate(static_cast<size_t>(config.d_conv) * config.d_model) &&
         slots.allocate(static_cast<size_t>(padded(config.attention_slots))) &&
         up.allocate(static_cast<size_t>((kTile + kChunk) * kBlock + row_stride(config.d_ff)));
}

bool Workspace::allocate(const Config& config, int team_size) {
  d_stride = row_stride(config.d_model);
  e_stride = row_stride(config.d_inner());
  f_stride = row_stride(config.d_ff);
  const size_t n = kChunk, d = n * d_stride, e = n * e_stride, f = n * f_stride;
  const size_t windows = n * config.d_conv * config.d_model;
  const size_t apart = std::max({windows, e, f, 4 * d});  // where `out` and the normed rows are in the shared memory
  struct Request {
    Vector* vector;
    size_t size;
  };
  const Request requests[] = {
      {&h, d}, {&log_q, n * kVocabulary}, {&u, d}, {&new_bias, n}, {&shared, std::max(apart + d, 3 * e)},
  };
  for (const Request& request : requests) {
    if (!request.vector->allocate(request.size)) return false;
    bytes_ += request.vector->bytes();
  }
  float* at = shared.data();
  embeddings = {at};
  dt = y = {at}, xc = {at + e}, z = {at + 2 * e};
  query = {at}, read = {at + d}, new_keys = {at + 2 * d}, new_values = {at + 3 * d};
  gate = {at};
  out = rows.row = {at + apart};
  if (!rows.allocate(config, kChunk) || !members.allocate(static_cast<size_t>(team_size))) return false;
  bytes_ += rows.bytes();
  for (MemberSpace& member : members) {
    if (!member.allocate(config)) return false;
    bytes_ += member.bytes();
  }
  return true;
}

}  // namespace ghost
