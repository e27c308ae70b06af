// CRC32c (RFC 9260 appendix A), in hardware where the processor has it and by tables where not. Seen by Engines/SCTP and Adapters/ChunkStores.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Continues a CRC32c over `length` octets. Start with 0; the result is the finished value for what has been seen so far.
uint32_t longhaul_crc32c(uint32_t crc, const void *bytes, size_t length);

// The two ways by themselves, for comparison. The hardware way must only be called where `longhaul_crc32c_has_hardware` says so.
bool longhaul_crc32c_has_hardware(void);
uint32_t longhaul_crc32c_hardware(uint32_t crc, const void *bytes, size_t length);
uint32_t longhaul_crc32c_tables(uint32_t crc, const void *bytes, size_t length);
