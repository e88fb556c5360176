// Packed trits, five to a byte (docs/file-format.md), decoded in their order.
#pragma once

#include <cstdint>

#include "source.h"

namespace ghost {

class TritReader {
 public:
  static constexpr int kSlack = 16;  // bytes that read() may use behind the codes

  // The bytes of `trits` trits: a range of ceil(trits / 5) bytes. The source is not used otherwise until the last code.
  TritReader(const Range& range, int64_t trits);

  // The next n <= 262144 codes, trit + 1, each in a byte, and zeros in the kSlack bytes behind them. Bytes that cannot be
  // read or stand for nothing give codes 0..2 of some kind.
  void read(int n, uint8_t* codes);

  // After the last code: "holds a byte above 242", "has padding trits that are not zero", or nullptr.
  const char* fault() const;

 private:
  Source* source_;
  int64_t rest_;         // trits not yet decoded
  uint64_t seen_ = 0;    // all table entries met, or-ed
  int carried_ = 0;      // codes of the last byte that have not been given
  uint8_t carry_[8]{};
};

}  // namespace ghost
