// The floating-point environment that canonical arithmetic needs: round to nearest, denormals kept, no traps.
#pragma once

#include <cstdint>
#if defined(__SSE__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace ghost {

// Sets the environment for one scope of one thread and restores what was there (a fast-math library in the process may
// have switched flush-to-zero on).
class FpControl {
 public:
  FpControl() : saved_(read()) { write(kDefault); }
  ~FpControl() { write(saved_); }
  FpControl(const FpControl&) = delete;
  FpControl& operator=(const FpControl&) = delete;

 private:
#if defined(__SSE__) || defined(_M_X64)
  using Word = uint32_t;
  static constexpr Word kDefault = 0x1F80;  // MXCSR: all exceptions masked
  static Word read() { return _mm_getcsr(); }
  static void write(Word word) { _mm_setcsr(word); }
#elif defined(__aarch64__)
  using Word = uint64_t;
  static constexpr Word kDefault = 0;  // FPCR
  static Word read() {
    Word word;
    asm volatile("mrs %0, fpcr" : "=r"(word));
    return word;
  }
  static void write(Word word) { asm volatile("msr fpcr, %0" : : "r"(word)); }
#else
  using Word = uint32_t;
  static constexpr Word kDefault = 0;
  static Word read() { return 0; }
  static void write(Word) {}
#endif
  Word saved_;
};

}  // namespace ghost
