#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// The wall clock, for what other machines compare with theirs; everything else uses monotonic time.
enum WallClock {
  /// Microseconds since 1970.
  static var microseconds: Int64 {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    return Int64(now.tv_sec) * 1_000_000 + Int64(now.tv_nsec) / 1_000
  }

  static var seconds: Int64 { microseconds / 1_000_000 }
}
