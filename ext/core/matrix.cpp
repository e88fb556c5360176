#include "matrix.h"

#include <cstring>

namespace ghost {
namespace {

constexpr int kLineBytes = 64;  // codes of one block and k-block

// The 16 codes of a row and k-block in the kernels' four bytes: bits 2s of byte b hold code 4s + b.
void interleave(const uint8_t* codes, uint8_t* to) {
  uint32_t part[4];
  std::memcpy(part, codes, sizeof part);
  const uint32_t line = part[0] | part[1] << 2 | part[2] << 4 | part[3] << 6;  // no code above 2: no carries
  std::memcpy(to, &line, sizeof line);
}

}  // namespace

float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half >> 15) << 31, exponent = (half >> 10) & 31, mantissa = half & 1023;
  float value;
  if (exponent == 0) {
    value = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -value : value;
  }
  const uint32_t bits = sign | (exponent == 31 ? 0x7F800000u : (exponent + 112) << 23) | mantissa << 13;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

size_t Matrix::code_bytes() const { return static_cast<size_t>(view_.blocks) * view_.k_blocks * kLineBytes; }

uint8_t* Matrix::codes_of(int row) {
  const int block = row / kBlock, first = block & -view_.together;
  return codes_ + (int64_t{first} * view_.k_blocks + block - first) * kLineBytes + row % kBlock * 4;
}

float* Matrix::magnitude_of(int row, int group) {
  const int block = row / kBlock, first = block & -view_.together;
  const int64_t line = int64_t{first} * view_.groups + int64_t{group} * strip_size(view_, block) + block - first;
  return magnitude_ + line * kBlock + row % kBlock;
}

bool Matrix::unpack(TritReader* trits, int rows, int columns, int groups, int together, Arena* arena) {
  rows_ = rows;
  view_.blocks = blocks_of(rows);
  view_.k_blocks = blocks_of(columns);
  view_.groups = groups;
  view_.together = together;
  Buffer<uint8_t> codes;
  codes_ = static_cast<uint8_t*>(arena->take(code_bytes()));
  magnitude_ = static_cast<float*>(arena->take(magnitude_floats() * sizeof(float)));
  if (codes_ == nullptr || magnitude_ == nullptr || !codes.allocate(padded(columns) + TritReader::kSlack)) return false;
  view_.codes = codes_;
  view_.magnitude = magnitude_;
  for (int r = 0; r < padded(rows); ++r) {
    if (r < rows) trits->read(columns, codes.data());  // behind the last row the same codes times a magnitude of zero
    const int64_t step = int64_t{strip_size(view_, r / kBlock)} * kLineBytes;
    uint8_t* row = codes_of(r);
    for (int k = 0; k < view_.k_blocks; ++k) interleave(codes.data() + k * kBlock, row + k * step);
  }
  std::memset(magnitude_, 0, magnitude_floats() * sizeof(float));
  return true;
}

bool Matrix::build(TritReader* trits, Halves scale, int rows, int columns, int together,
                   Arena* arena) {
  if (!unpack(trits, rows, columns, 1, together, arena)) return false;
  view_.start = -0.0f;
  view_.group_blocks = view_.k_blocks;
  for (int r = 0; r < rows; ++r) *magnitude_of(r, 0) = scale[r];
  return true;
}

bool Matrix::build(TritReader* trits, const Range& index, Halves codebook, int rows, int columns, int group,
                   int together, Arena* arena) {
  const int groups = (columns + group - 1) / group;
  if (!unpack(trits, rows, columns, groups, together, arena)) return false;
  view_.start = 0.0f;
  view_.group_blocks = group / kBlock;
  index.source->start(index.offset, index.size);
  for (int r = 0; r < rows; ++r) {
    const uint8_t* row = index.source->next(static_cast<size_t>(groups));
    for (int g = 0; row != nullptr && g < groups; ++g) *magnitude_of(r, g) = codebook[row[g]];
  }
  return true;
}

bool Embedding::allocate(int columns) {
  columns_ = columns;
  const int k_quads = padded(columns) / 4;
  if (!scale_.allocate(kVocabulary) || !bytes_.allocate(static_cast<size_t>(kVocabulary) * k_quads * 4)) return false;
  view_ = {bytes_.data(), scale_.data(), blocks_of(kVocabulary), k_quads};
  return true;
}

void Embedding::set_row(int byte, const int8_t* row, float scale) {
  scale_[static_cast<size_t>(byte)] = scale;
  uint8_t* head = bytes_.data() + int64_t{byte / kBlock} * view_.k_quads * kLineBytes + byte % kBlock * 4;
  for (int k = 0; k < columns_; ++k) head[k / 4 * kLineBytes + k % 4] = static_cast<uint8_t>(row[k] + 128);
}

void Embedding::row(int byte, float* out) const {
  const uint8_t* head = bytes_.data() + int64_t{byte / kBlock} * view_.k_quads * kLineBytes + byte % kBlock * 4;
  const float scale = scale_[static_cast<size_t>(byte)];
  for (int k = 0; k < columns_; ++k) out[k] = static_cast<float>(head[k / 4 * kLineBytes + k % 4] - 128) * scale;
}

}  // namespace ghost
