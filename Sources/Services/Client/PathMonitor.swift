import Control
import Logging
import NIOCore
import Probing

/// The client's eyes: probes the places that the controller names and reports what they find. On the client's event loop.
final class PathMonitor {
  private let prober: PathProber

  init(loop: any EventLoop, logger: Logger, report: @escaping (NodeReport) -> Void) {
    prober = PathProber(loop: loop, logger: logger, report: report)
  }

  /// Replaces the targets; connections to those that stay are kept.
  func watch(_ targets: [ProbeTarget]) { prober.watch(targets) }

  func stop() { prober.stop() }
}
