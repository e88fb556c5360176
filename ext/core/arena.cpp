#include "arena.h"

#include <algorithm>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace ghost {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kLargePage = size_t{1} << 21;
constexpr size_t kLargestBlock = size_t{1} << 25;
constexpr size_t kSmallestBlock = size_t{1} << 16;

// Blocks of several large pages start at one. Smaller blocks keep to small pages: a model of a few MiB is to take no more
// memory than it needs.
std::align_val_t alignment_of(size_t size) {
  return std::align_val_t{size >= 2 * kLargePage ? kLargePage : kLine};
}

}  // namespace

struct alignas(kLine) Arena::Block {
  Block* before;
  size_t size;
};

Arena::~Arena() {
  while (last_ != nullptr) {
    Block* block = last_;
    last_ = block->before;
    ::operator delete(static_cast<void*>(block), alignment_of(block->size));
  }
}

void Arena::expect(uint64_t bytes) {
  block_size_ = static_cast<size_t>(std::clamp<uint64_t>(bytes / 4, kSmallestBlock, kLargestBlock));
}

void* Arena::take(size_t bytes) {
  if (bytes > PTRDIFF_MAX - kLargestBlock) return nullptr;
  bytes = (bytes + kLine - 1) / kLine * kLine;
  if (last_ == nullptr || bytes > size_ - used_) {
    const size_t size = std::max(block_size_, bytes + sizeof(Block));
    void* memory = ::operator new(size, alignment_of(size), std::nothrow);
    if (memory == nullptr) return nullptr;
#ifdef __linux__
    if (alignment_of(size) == std::align_val_t{kLargePage}) {
      (void)madvise(memory, size, MADV_HUGEPAGE);  // small pages do as well
    }
#endif
    last_ = new (memory) Block{last_, size};
    size_ = size;
    used_ = sizeof(Block);
  }
  used_ += bytes;
  return reinterpret_cast<uint8_t*>(last_) + (used_ - bytes);
}

}  // namespace ghost
