#define _GNU_SOURCE
#include "CLinux.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

int longhaul_enter_namespace(const char *path) {
  int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return -1;
  int result = setns(descriptor, CLONE_NEWNET);
  int saved = errno;
  close(descriptor);
  errno = saved;
  return result;
}

extern char **environ;

int longhaul_spawn(const char *path, char *const arguments[], const int descriptors[3]) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t signals;
  pid_t pid;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  for (int i = 0; i < 3; i++) posix_spawn_file_actions_adddup2(&actions, descriptors[i], i);
  posix_spawn_file_actions_addclosefrom_np(&actions, 3);
  sigfillset(&signals);
  posix_spawnattr_setsigdefault(&attributes, &signals);
  sigemptyset(&signals);
  posix_spawnattr_setsigmask(&attributes, &signals);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
  int code = posix_spawn(&pid, path, &actions, &attributes, arguments, environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (code != 0) {
    errno = code;
    return -1;
  }
  return pid;
}

int longhaul_pipe(int ends[2]) { return pipe2(ends, O_CLOEXEC); }

int longhaul_poll(struct pollfd *descriptors, int count, int64_t nanoseconds) {
  struct timespec limit = {nanoseconds / 1000000000, nanoseconds % 1000000000};
  return ppoll(descriptors, (nfds_t)count, nanoseconds < 0 ? NULL : &limit, NULL);
}

int longhaul_set_timer_slack(uint64_t nanoseconds) { return prctl(PR_SET_TIMERSLACK, nanoseconds); }

int longhaul_set_realtime(int priority) {
  struct sched_param parameters = {.sched_priority = priority};
  return sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &parameters);
}

int longhaul_open_tun(const char *name, int offload) {
  int descriptor = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) return -1;
  struct ifreq request = {0};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
  int header = 10;  // struct virtio_net_hdr
  unsigned features = TUN_F_CSUM | (offload ? TUN_F_TSO4 | TUN_F_TSO6 : 0);
  int buffer = 0x7fffffff;  // the emulator's own queue is the one that counts
  if (ioctl(descriptor, TUNSETIFF, &request) < 0 || ioctl(descriptor, TUNSETVNETHDRSZ, &header) < 0 || ioctl(descriptor, TUNSETOFFLOAD, features) < 0 ||
      ioctl(descriptor, TUNSETSNDBUF, &buffer) < 0) {
    int saved = errno;
    close(descriptor);
    errno = saved;
    return -1;
  }
  return descriptor;
}
