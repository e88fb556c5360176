#include "trits.h"

#include <cstring>

namespace ghost {
namespace {

constexpr int kPerByte = 5;
constexpr int kBytes = 243;
constexpr int kMark = 7;  // the element of an entry that says whether the byte stands for no trits

// The codes (trit + 1) of every packed byte.
struct Table {
  uint8_t code[256][8];
};

constexpr Table make_table() {
  Table table{};
  for (int byte = 0; byte < 256; ++byte) {
    for (int j = 0, rest = byte; j < kPerByte && byte < kBytes; ++j, rest /= 3) {
      table.code[byte][j] = static_cast<uint8_t>(rest % 3);
    }
    table.code[byte][kMark] = byte < kBytes ? 0 : 1;
  }
  return table;
}

constexpr Table kTable = make_table();

}  // namespace

TritReader::TritReader(const Range& range, int64_t trits) : source_(range.source), rest_(trits) {
  source_->start(range.offset, range.size);
}

void TritReader::read(int n, uint8_t* codes) {
  std::memcpy(codes, carry_, sizeof carry_);
  int count = carried_;
  if (n > count) {
    const int bytes = (n - count + kPerByte - 1) / kPerByte;
    const uint8_t* packed = source_->next(static_cast<size_t>(bytes));
    for (int i = 0; packed != nullptr && i < bytes; ++i) {
      uint64_t entry;  // stored whole: the next entry overwrites what is behind the five codes
      std::memcpy(&entry, kTable.code[packed[i]], sizeof entry);
      std::memcpy(codes + count + i * kPerByte, &entry, sizeof entry);
      seen_ |= entry;
    }
    if (packed == nullptr) std::memset(codes, 0, static_cast<size_t>(n));
    count += bytes * kPerByte;
  }
  carried_ = count - n;
  std::memset(carry_, 0, sizeof carry_);
  std::memcpy(carry_, codes + n, static_cast<size_t>(carried_));
  std::memset(codes + n, 0, kSlack);
  rest_ -= n;
}

const char* TritReader::fault() const {
  uint8_t seen[8];
  std::memcpy(seen, &seen_, sizeof seen);
  if (seen[kMark] != 0) return "holds a byte above 242";
  for (int i = 0; rest_ == 0 && i < carried_; ++i) {
    if (carry_[i] != 1) return "has padding trits that are not zero";
  }
  return nullptr;
}

}  // namespace ghost
