import Control
import Logging
import NIOCore
// stub
final class PathMonitor {
  init(loop: any EventLoop, logger: Logger, report: @escaping (NodeReport) -> Void) {}
  func watch(_ targets: [ProbeTarget]) {}
  func stop() {}
}
