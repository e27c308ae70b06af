#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// How many descriptors this process may have.
enum FileLimit {
  /// A flow takes one here and one at the peer; the usual soft limit of 1,024 is few. Raises it to the hard one, which needs no privilege; where even
  /// that fails, the accelerator goes on with what there is.
  static func raise() {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0, limit.rlim_cur < limit.rlim_max else { return }
    limit.rlim_cur = limit.rlim_max
    _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
  }
}
