#include "matrix.h"

namespace ghost {
namespace {

constexpr int kTritsPerByte = 5;
constexpr int kTritBytes = 243;
constexpr int kLineBytes = 64;  // codes of one block and k-block

// The codes (trit + 1) of every packed byte.
struct TritTable {
  uint8_t code[kTritBytes][kTritsPerByte];
};

constexpr TritTable make_trit_table() {
  TritTable table{};
  for (int byte = 0; byte < kTritBytes; ++byte) {
    for (int j = 0, rest = byte; j < kTritsPerByte; ++j, rest /= 3) {
      table.code[byte][j] = static_cast<uint8_t>(rest % 3);
    }
  }
  return table;
}

constexpr TritTable kTrits = make_trit_table();

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

bool Matrix::unpack(const uint8_t* trits, int first, int rows, int columns, int groups) {
  rows_ = rows;
  view_.blocks = blocks_of(rows);
  view_.k_blocks = blocks_of(columns);
  view_.groups = groups;
  if (!codes_.allocate(static_cast<size_t>(view_.blocks) * view_.k_blocks * kLineBytes)) return false;
  if (!magnitude_.allocate(static_cast<size_t>(view_.blocks) * groups * kBlock)) return false;
  view_.codes = codes_.data();
  view_.magnitude = magnitude_.data();
  const int64_t start = int64_t{first} * columns;
  const uint8_t* packed = trits + start / kTritsPerByte;
  int digit = static_cast<int>(start % kTritsPerByte);
  for (int r = 0; r < rows; ++r) {
    uint8_t* row = codes_.data() + int64_t{r / kBlock} * view_.k_blocks * kLineBytes + r % kBlock * 4;
    for (int k = 0; k < columns; ++k) {
      const int shift = k % kBlock / 4 * 2;
      row[k / kBlock * kLineBytes + k % 4] |= static_cast<uint8_t>(kTrits.code[*packed][digit] << shift);
      if (++digit == kTritsPerByte) {
        digit = 0;
        ++packed;
      }
    }
  }
  return true;
}

bool Matrix::build(const uint8_t* trits, Halves scale, int first, int rows, int columns) {
  if (!unpack(trits, first, rows, columns, 1)) return false;
  view_.start = -0.0f;
  view_.group_blocks = view_.k_blocks;
  for (int r = 0; r < rows; ++r) magnitude_[static_cast<size_t>(r)] = scale[first + r];
  return true;
}

bool Matrix::build(const uint8_t* trits, const uint8_t* index, Halves codebook, int rows, int columns,
                   int group) {
  const int groups = (columns + group - 1) / group;
  if (!unpack(trits, 0, rows, columns, groups)) return false;
  view_.start = 0.0f;
  view_.group_blocks = group / kBlock;
  for (int r = 0; r < rows; ++r) {
    for (int g = 0; g < groups; ++g) {
      const size_t at = (static_cast<size_t>(r / kBlock) * groups + g) * kBlock + r % kBlock;
      magnitude_[at] = codebook[index[int64_t{r} * groups + g]];
    }
  }
  return true;
}

bool Embedding::build(const int8_t* rows, Halves scale, int columns) {
  columns_ = columns;
  const int k_quads = padded(columns) / 4;
  if (!rows_.allocate(static_cast<size_t>(kVocabulary) * columns) || !scale_.allocate(kVocabulary) ||
      !bytes_.allocate(static_cast<size_t>(kVocabulary) * k_quads * 4)) {
    return false;
  }
  std::memcpy(rows_.data(), rows, rows_.bytes());
  for (int r = 0; r < kVocabulary; ++r) {
    scale_[static_cast<size_t>(r)] = scale[r];
    uint8_t* row = bytes_.data() + int64_t{r / kBlock} * k_quads * kLineBytes + r % kBlock * 4;
    for (int k = 0; k < columns; ++k) {
      row[k / 4 * kLineBytes + k % 4] = static_cast<uint8_t>(rows[int64_t{r} * columns + k] + 128);
    }
  }
  view_ = {bytes_.data(), scale_.data(), blocks_of(kVocabulary), k_quads};
  return true;
}

void Embedding::row(int byte, float* out) const {
  const int8_t* row = rows_.data() + int64_t{byte} * columns_;
  const float scale = scale_[static_cast<size_t>(byte)];
  for (int i = 0; i < columns_; ++i) out[i] = static_cast<float>(row[i]) * scale;
}

}  // namespace ghost
