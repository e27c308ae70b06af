#define _GNU_SOURCE
#include "CStorage.h"
#include <linux/magic.h>
#include <sys/uio.h>
#include <sys/vfs.h>

ssize_t longhaul_read_cached(int descriptor, void *bytes, size_t count, int64_t offset) {
  struct iovec part = {bytes, count};
  return preadv2(descriptor, &part, 1, offset, RWF_NOWAIT);
}

int longhaul_is_in_memory(int descriptor) {
  struct statfs system;
  if (fstatfs(descriptor, &system) != 0) return 0;
  return system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC;
}
