// The bytes of a container: in memory, or in a file of which only a piece is in memory at a time.
//
// A file is read, not mapped: a mapped file that somebody cuts short ends the process (SIGBUS), its pages count as memory
// of this process until they are given back, and nothing is saved, since the trits are expanded anyway.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "buffer.h"
#include "status.h"

namespace ghost {

class Source {
 public:
  static constexpr size_t kPiece = size_t{1} << 17;

  Source() = default;
  Source(const uint8_t* data, uint64_t size) : size_(size), data_(data) {}
  ~Source();
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  Status open(const std::string& path);
  uint64_t size() const { return size_; }

  // After this, next() gives the `size` bytes from `offset` on.
  void start(uint64_t offset, uint64_t size);
  // The next n <= kPiece bytes, valid until the next call; nullptr if they cannot be read.
  const uint8_t* next(size_t n);
  // Copies the n bytes at `offset`. False if they cannot be read.
  bool read(uint64_t offset, size_t n, void* to);

  // Why bytes could not be read. The first failure stays; after it nothing is read any more.
  const Status& status() const { return status_; }

 private:
  bool fail(const std::string& why);

  uint64_t size_ = 0;
  const uint8_t* data_ = nullptr;  // in memory
  std::FILE* file_ = nullptr;
  uint64_t at_ = 0;                // where the file stands
  uint64_t unread_ = 0, end_ = 0;  // of the range that was started: [unread_, end_) has not been read yet
  Buffer<uint8_t> piece_;
  size_t given_ = 0, filled_ = 0;  // of the piece: [given_, filled_) has been read and not been given
  std::string path_;
  Status status_;
};

// A part of a source.
struct Range {
  Source* source;
  uint64_t offset;
  uint64_t size;
};

}  // namespace ghost
