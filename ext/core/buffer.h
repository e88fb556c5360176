// Owned, zeroed, 64-byte aligned arrays whose allocation can fail without an exception.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

namespace ghost {

template <typename T>
class Buffer {
 public:
  Buffer() = default;
  ~Buffer() { clear(); }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }

  // Replaces the content by `size` value-initialised elements. False when there is no memory.
  bool allocate(size_t size) {
    clear();
    if (size == 0) return true;
    if (size > kLargest / sizeof(T)) return false;
    void* memory = ::operator new(size * sizeof(T), kAlignment, std::nothrow);
    if (memory == nullptr) return false;
    data_ = static_cast<T*>(memory);
    size_ = size;
    for (size_t i = 0; i < size; ++i) new (data_ + i) T();
    return true;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  size_t bytes() const { return size_ * sizeof(T); }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }

 private:
  static constexpr size_t kLargest = PTRDIFF_MAX;
  static constexpr std::align_val_t kAlignment{64};

  void clear() {
    for (size_t i = 0; i < size_; ++i) data_[i].~T();
    ::operator delete(static_cast<void*>(data_), kAlignment);
    data_ = nullptr;
    size_ = 0;
  }
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace ghost
