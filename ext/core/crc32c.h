// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78, RFC 3720 section B.4), eight bytes a step:
// M. Kounavis, F. Berry, "Novel Table Lookup-Based Algorithms for High-Performance CRC Generation" (2008).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace ghost {

// table[k][b]: the register after byte b and then k zero bytes, started from zero.
using Crc32cTables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Crc32cTables make_crc32c_tables() {
  Crc32cTables table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t reg = byte;
    for (int bit = 0; bit < 8; ++bit) reg = (reg >> 1) ^ ((reg & 1) ? 0x82F63B78u : 0u);
    table[0][byte] = reg;
  }
  for (size_t k = 1; k < 8; ++k) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t reg = table[k - 1][byte];
      table[k][byte] = table[0][reg & 0xFF] ^ (reg >> 8);
    }
  }
  return table;
}

inline constexpr Crc32cTables kCrc32c = make_crc32c_tables();

constexpr uint32_t kCrc32cStart = 0xFFFFFFFFu;

inline uint32_t load_little_endian32(const uint8_t* p) {
  return static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8 | static_cast<uint32_t>(p[2]) << 16 |
         static_cast<uint32_t>(p[3]) << 24;
}

// Advances a register (first value kCrc32cStart) over `size` bytes.
inline uint32_t crc32c_update(uint32_t reg, const uint8_t* data, size_t size) {
  for (; size >= 8; data += 8, size -= 8) {
    const uint32_t low = reg ^ load_little_endian32(data);
    const uint32_t high = load_little_endian32(data + 4);
    reg = kCrc32c[7][low & 0xFF] ^ kCrc32c[6][(low >> 8) & 0xFF] ^ kCrc32c[5][(low >> 16) & 0xFF] ^
          kCrc32c[4][low >> 24] ^ kCrc32c[3][high & 0xFF] ^ kCrc32c[2][(high >> 8) & 0xFF] ^
          kCrc32c[1][(high >> 16) & 0xFF] ^ kCrc32c[0][high >> 24];
  }
  for (; size > 0; ++data, --size) reg = kCrc32c[0][(reg ^ *data) & 0xFF] ^ (reg >> 8);
  return reg;
}

inline uint32_t crc32c(const uint8_t* data, size_t size) {
  return ~crc32c_update(kCrc32cStart, data, size);
}

}  // namespace ghost
