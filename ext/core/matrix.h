// Weight matrices in the layout of the kernels, built from the forms a packed file holds.
#pragma once

#include <cstdint>

#include "buffer.h"
#include "kernels.h"

namespace ghost {

inline int blocks_of(int n) { return (n + kBlock - 1) / kBlock; }
inline int padded(int n) { return blocks_of(n) * kBlock; }

// The value of an IEEE binary16 number, exactly.
float half_to_float(uint16_t half);

// Little-endian float16 numbers at any address.
struct Halves {
  const uint8_t* bytes;
  uint16_t bits(int64_t i) const { return static_cast<uint16_t>(bytes[2 * i] | bytes[2 * i + 1] << 8); }
  float operator[](int64_t i) const { return half_to_float(bits(i)); }
};

// A ternary or codebook matrix of the kernels and its memory.
class Matrix {
 public:
  const TritMatrix* view() const { return &view_; }
  int rows() const { return rows_; }
  int blocks() const { return view_.blocks; }
  size_t bytes() const { return codes_.bytes() + magnitude_.bytes(); }

  // Rows [first, first + rows) of a row-major trit matrix with `columns` columns, packed 5 to a byte, and one float16
  // scale per row. False when there is no memory.
  bool build(const uint8_t* trits, Halves scale, int first, int rows, int columns);

  // All rows of a codebook matrix: index (rows, groups) into codebook (256) for every `group` columns.
  bool build(const uint8_t* trits, const uint8_t* index, Halves codebook, int rows, int columns, int group);

 private:
  bool unpack(const uint8_t* trits, int first, int rows, int columns, int groups);

  Buffer<uint8_t> codes_;
  Buffer<float> magnitude_;
  TritMatrix view_{};
  int rows_ = 0;
};

// The embedding: int8 rows with a float16 scale, in the head's layout and, as they are, for look-up.
class Embedding {
 public:
  const ByteMatrix* head() const { return &view_; }
  size_t bytes() const { return rows_.bytes() + bytes_.bytes() + scale_.bytes(); }

  bool build(const int8_t* rows, Halves scale, int columns);

  // float(row) * scale of one byte, `columns` floats.
  void row(int byte, float* out) const;

 private:
  Buffer<int8_t> rows_;
  Buffer<uint8_t> bytes_;
  Buffer<float> scale_;
  ByteMatrix view_{};
  int columns_ = 0;
};

}  // namespace ghost
