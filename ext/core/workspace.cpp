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

bool TokenRows::allocate(const Config& config, int tokens) {
  const size_t n = static_cast<size_t>(tokens);
  width = widest_row(config);
  bc_stride = padded(2 * config.d_state);
  sums_stride = most_groups(config);
  return row.allocate(n * width) && bc.allocate(n * bc_stride) && gate.allocate(n) && q.allocate(n * width) &&
         scale.allocate(n) && sums.allocate(n * sums_stride);
}

bool Workspace::allocate(const Config& config, int team_size) {
  d_stride = padded(config.d_model);
  e_stride = padded(config.d_inner());
  f_stride = padded(config.d_ff);
  const size_t n = kChunk, taps = static_cast<size_t>(config.d_conv - 1);
  const size_t d = n * d_stride, e = n * e_stride, f = n * f_stride;
  struct Request {
    Vector* vector;
    size_t size;
  };
  const Request requests[] = {
      {&embeddings, (taps + n) * config.d_model}, {&h, d}, {&depth, n}, {&log_q, n * kVocabulary}, {&u, d},
      {&window, (taps + n) * e_stride}, {&z, e}, {&xc, e}, {&dt, e}, {&y, e}, {&out, d}, {&query, d}, {&read, d},
      {&new_keys, d}, {&new_values, d}, {&new_bias, n}, {&gate, f}, {&up, f},
  };
  for (const Request& request : requests) {
    if (!request.vector->allocate(request.size)) return false;
    bytes_ += request.vector->bytes();
  }
  if (!rows.allocate(config, kChunk) || !members.allocate(static_cast<size_t>(team_size))) return false;
  for (MemberSpace& member : members) {
    if (!member.rows.allocate(config, 1)) return false;
    if (!member.slots.allocate(static_cast<size_t>(padded(config.attention_slots)))) return false;
  }
  return true;
}

}  // namespace ghost
