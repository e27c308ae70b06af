// What Linux offers and Swift's Glibc module leaves out. Seen by Adapters/LinuxNetwork alone.
#pragma once
#include <poll.h>
#include <stdint.h>

// Each returns -1 with errno set on failure.

// Moves the calling thread into the network namespace at `path`.
int longhaul_enter_namespace(const char *path);
// Starts a program in a process group of its own, with default signals and these three descriptors only; returns its pid.
int longhaul_spawn(const char *path, char *const arguments[], const int descriptors[3]);
// A pipe whose ends no child process inherits.
int longhaul_pipe(int ends[2]);
// ppoll without a signal mask; `nanoseconds` < 0 waits without limit.
int longhaul_poll(struct pollfd *descriptors, int count, int64_t nanoseconds);
// Timers of the calling thread may be late by this much (prctl PR_SET_TIMERSLACK).
int longhaul_set_timer_slack(uint64_t nanoseconds);
// SCHED_FIFO for the calling thread.
int longhaul_set_realtime(int priority);
// A TUN device (no packet information, with virtio-net headers) in the calling thread's namespace; returns its descriptor, non-blocking.
// With `offload` the kernel hands over and takes TCP segments of up to 64 KiB (GSO) and leaves checksums to be completed.
int longhaul_open_tun(const char *name, int offload);
