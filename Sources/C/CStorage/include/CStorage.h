// What Linux offers for reading files and Swift's Glibc module leaves out. Seen by Adapters/ChunkStores alone.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// Reads what is in the page cache and waits for no disk (preadv2 with RWF_NOWAIT). -1 with EAGAIN where it would have to wait, with EOPNOTSUPP where the
// file system cannot say; fewer octets than asked for where only the first of them are in memory.
ssize_t longhaul_read_cached(int descriptor, void *bytes, size_t count, int64_t offset);
// 1 if the file lies in memory (tmpfs, ramfs): reading it never waits for a disk.
int longhaul_is_in_memory(int descriptor);
