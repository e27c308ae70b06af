#include "CChecksum.h"
#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_acle.h>
#include <sys/auxv.h>
#endif

// Slicing by 8 (Kounavis, Berry 2005): table[k][b] is the CRC of octet b followed by k zero octets.
static uint32_t table[8][256];

__attribute__((constructor)) static void make_tables(void) {
  for (uint32_t b = 0; b < 256; b++) {
    uint32_t crc = b;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    table[0][b] = crc;
  }
  for (int k = 1; k < 8; k++)
    for (int b = 0; b < 256; b++) table[k][b] = table[k - 1][b] >> 8 ^ table[0][table[k - 1][b] & 255];
}

uint32_t longhaul_crc32c_tables(uint32_t crc, const void *bytes, size_t length) {
  const uint8_t *p = bytes;
  crc = ~crc;
  while (length >= 8) {
    uint8_t x[8];
    memcpy(x, p, 8);
    crc = table[7][x[0] ^ (crc & 255)] ^ table[6][x[1] ^ (crc >> 8 & 255)] ^ table[5][x[2] ^ (crc >> 16 & 255)] ^ table[4][x[3] ^ crc >> 24] ^
          table[3][x[4]] ^ table[2][x[5]] ^ table[1][x[6]] ^ table[0][x[7]];
    p += 8;
    length -= 8;
  }
  while (length--) crc = crc >> 8 ^ table[0][(crc ^ *p++) & 255];
  return ~crc;
}

#if defined(__x86_64__)

bool longhaul_crc32c_has_hardware(void) { return __builtin_cpu_supports("sse4.2"); }

__attribute__((target("sse4.2"))) uint32_t longhaul_crc32c_hardware(uint32_t crc, const void *bytes, size_t length) {
  const uint8_t *p = bytes;
  uint64_t wide = ~crc;
  while (length >= 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    wide = _mm_crc32_u64(wide, word);
    p += 8;
    length -= 8;
  }
  uint32_t narrow = (uint32_t)wide;
  while (length--) narrow = _mm_crc32_u8(narrow, *p++);
  return ~narrow;
}

#elif defined(__aarch64__) && defined(__linux__)

bool longhaul_crc32c_has_hardware(void) { return getauxval(AT_HWCAP) & (1 << 7); }  // HWCAP_CRC32

__attribute__((target("+crc"))) uint32_t longhaul_crc32c_hardware(uint32_t crc, const void *bytes, size_t length) {
  const uint8_t *p = bytes;
  crc = ~crc;
  while (length >= 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    crc = __crc32cd(crc, word);
    p += 8;
    length -= 8;
  }
  while (length--) crc = __crc32cb(crc, *p++);
  return ~crc;
}

#else

bool longhaul_crc32c_has_hardware(void) { return false; }
uint32_t longhaul_crc32c_hardware(uint32_t crc, const void *bytes, size_t length) { return longhaul_crc32c_tables(crc, bytes, length); }

#endif

uint32_t longhaul_crc32c(uint32_t crc, const void *bytes, size_t length) {
  return longhaul_crc32c_has_hardware() ? longhaul_crc32c_hardware(crc, bytes, length) : longhaul_crc32c_tables(crc, bytes, length);
}
