// Arrays that end where the memory ends: reading or writing one element too many is a crash, also where no sanitizer
// runs (a cross-built program under an emulator).
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace ghost_tests {

template <typename T>
class Guarded {
 public:
  // `size` elements, every byte of them `fill`.
  explicit Guarded(size_t size, int fill = 0) : size_(size) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t usable = (size * sizeof(T) + page - 1) / page * page;
    mapped_ = usable + page;
    void* memory = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(static_cast<char*>(memory) + usable, page, PROT_NONE) != 0) {
      std::fputs("no memory for the test\n", stderr);
      std::exit(2);
    }
    base_ = static_cast<char*>(memory);
    data_ = reinterpret_cast<T*>(base_ + usable - size * sizeof(T));
    if (size > 0) std::memset(static_cast<void*>(data_), fill, size * sizeof(T));
  }
  ~Guarded() { munmap(base_, mapped_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }

 private:
  size_t size_, mapped_;
  char* base_;
  T* data_;
};

}  // namespace ghost_tests
