import NIOCore
import Synchronization

/// Lets one log line of a kind through in so many seconds. Kinds are few (a segment, a task), and those whose time is over are dropped.
final class LogPace: Sendable {
  private let until = Mutex<[String: NIODeadline]>([:])

  func admits(_ kind: String) -> Bool {
    until.withLock { until in
      let now = NIODeadline.now()
      if let end = until[kind], end > now { return false }
      until = until.filter { $0.value > now }
      until[kind] = now + .seconds(DiskStoreLimits.logSeconds)
      return true
    }
  }
}
