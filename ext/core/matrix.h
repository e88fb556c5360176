// Weight matrices in the layout of the kernels, built from the forms a packed file holds.
#pragma once

#include <cstdint>

#include "arena.h"
#include "buffer.h"
#include "kernels.h"
#include "trits.h"

namespace ghost {

inline int blocks_of(int n) { return (n + kBlock - 1) / kBlock; }
inline int padded(int n) { return blocks_of(n) * kBlock; }

// Floats from row to row of n: padded, and an odd number of cache lines. Rows a power of two apart would share a few
// sets of the cache when a kernel goes down a column.
inline int row_stride(int n) { return n > 0 ? (blocks_of(n) | 1) * kBlock : 0; }

// The value of an IEEE binary16 number, exactly.
float half_to_float(uint16_t half);

// Little-endian float16 numbers at any address.
struct Halves {
  const uint8_t* bytes;
  uint16_t bits(int64_t i) const { return static_cast<uint16_t>(bytes[2 * i] | bytes[2 * i + 1] << 8); }
  float operator[](int64_t i) const { return half_to_float(bits(i)); }
};

// A ternary or codebook matrix of the kernels. Its memory is the arena's, which must outlive it.
class Matrix {
 public:
  const TritMatrix* view() const { return &view_; }
  int rows() const { return rows_; }
  int blocks() const { return view_.blocks; }
  size_t bytes() const { return code_bytes() + magnitude_floats() * sizeof(float); }

  // The next `rows` rows of `columns` columns of row-major trits, and one float16 scale per row, for kernels that want
  // `together` blocks in a strip. Faults of the trits are the reader's to tell. False when there is no memory.
  bool build(TritReader* trits, Halves scale, int rows, int columns, int together, Arena* arena);

  // A codebook matrix: index (rows, groups), uint8, into codebook (256) for every `group` columns. The indices are read
  // from their range after the trits. False when there is no memory.
  bool build(TritReader* trits, const Range& index, Halves codebook, int rows, int columns, int group,
             int together, Arena* arena);

 private:
  size_t code_bytes() const;
  size_t magnitude_floats() const { return static_cast<size_t>(view_.blocks) * view_.groups * kBlock; }
  bool unpack(TritReader* trits, int rows, int columns, int groups, int together, Arena* arena);
  uint8_t* codes_of(int row);  // of its first k-block
  float* magnitude_of(int row, int group);

  uint8_t* codes_ = nullptr;
  float* magnitude_ = nullptr;
  TritMatrix view_{};
  int rows_ = 0;
};

// The embedding: int8 rows with a float16 scale, in the head's layout.
class Embedding {
 public:
  const ByteMatrix* head() const { return &view_; }
  size_t bytes() const { return bytes_.bytes() + scale_.bytes(); }

  // 256 rows of zeros. False when there is no memory.
  bool allocate(int columns);
  // Row `byte` is float(row[i]) * scale.
  void set_row(int byte, const int8_t* row, float scale);

  // float(row) * scale of one byte, `columns` floats.
  void row(int byte, float* out) const;

 private:
  Buffer<uint8_t> bytes_;
  Buffer<float> scale_;
  ByteMatrix view_{};
  int columns_ = 0;
};

}  // namespace ghost
