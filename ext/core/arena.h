// Memory for a model's matrices: given out in order, released as a whole, not initialised.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ghost {

// Matrices that stand one behind the other are read as one stream, and where they are many the arena asks the system for
// pages of 2 MiB: a decode of a model larger than the caches then misses the TLB rarely.
class Arena {
 public:
  Arena() = default;
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // How much will be taken, roughly: decides the size of the blocks that are asked from the system.
  void expect(uint64_t bytes);
  // 64-byte aligned memory; nullptr when there is none.
  void* take(size_t bytes);

 private:
  struct Block;

  Block* last_ = nullptr;
  size_t block_size_ = size_t{1} << 16;
  size_t used_ = 0, size_ = 0;  // of the last block
};

}  // namespace ghost
