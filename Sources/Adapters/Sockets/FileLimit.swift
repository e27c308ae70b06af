#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// How many descriptors this process may have.
package enum FileLimit {
  /// 16,384 sessions and 65,536 flows, and room for half as many again.
  package static let wanted: rlim_t = 131_072

  /// A flow takes one at each end; the usual soft limit of 1,024 is few. Raises it to the hard one, which needs no privilege, or to `wanted`, which may need some, and tells what the limit is then.
  @discardableResult
  package static func raise() -> Int {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 1_024 }
    for goal in [max(limit.rlim_max, wanted), limit.rlim_max] where limit.rlim_cur < goal {
      var raised = rlimit(rlim_cur: goal, rlim_max: max(goal, limit.rlim_max))
      if setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &raised) == 0 { limit = raised }
    }
    return Int(clamping: limit.rlim_cur)
  }
}

/// The descriptors that a program gives to its connections. It refuses one connection with a reason before the system refuses all without one.
package final class DescriptorBudget {
  /// For what is not counted: logs, event loops, the link to the controller, look-ups of names.
  package static let reserve = 64
  package let limit: Int
  package private(set) var used = 0

  package init(limit: Int = FileLimit.raise() - DescriptorBudget.reserve) { self.limit = max(limit, 1) }

  /// False: there is none left.
  package func take() -> Bool {
    guard used < limit else { return false }
    used += 1
    return true
  }

  package func giveBack() { used -= 1 }
}
