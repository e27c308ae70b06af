import Control
import ControlLink
import Logging
import NIOCore
import NIOPosix
import Vocabulary
import TestSupport

/// A node with a link, on an event loop of its own choice.
final class Node: Sendable {
  let orders = Inbox<NodeOrder>()
  let log = Inbox<Line>()
  private let link: NIOLoopBound<ControlLink>

  struct Line: Sendable {
    var level: Logger.Level
    var text: String
  }

  /// Short pauses, so that tests do not wait; the silence is long, so that a busy machine does not look like one.
  static var limits: ControlLinkLimits {
    var limits = ControlLinkLimits()
    limits.silence = .seconds(30)
    limits.firstPause = .milliseconds(10)
    limits.longestPause = .milliseconds(100)
    limits.refusedPause = .milliseconds(50)
    return limits
  }

  static let description = NodeDescription(node: "a node/1", role: .client, site: "access", machines: ["vm"])

  init(to controller: Endpoint, sources: [String] = [], limits: ControlLinkLimits = Node.limits) async throws {
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    link = try await loop.submit { [orders, log] in
      let logger = Logger(label: "test") { _ in RecordingLog(log: log) }
      let link = ControlLink(
        loop: loop, controller: controller, description: Node.description, credentials: .token("secret"),
        sources: sources.map { IPAddress($0)! },
        logger: logger, limits: limits, onOrder: { orders.put($0) })
      return NIOLoopBound(link, eventLoop: loop)
    }.get()
  }

  private func onLoop(_ body: @escaping @Sendable (ControlLink) -> Void) async throws {
    let link = self.link
    try await link.eventLoop.submit { body(link.value) }.get()
  }

  func start() async throws { try await onLoop { $0.start() } }
  func stop() async throws { try await onLoop { $0.stop() } }
  func report(_ reports: NodeReport...) async throws { try await onLoop { link in for report in reports { link.report(report) } } }
  func reconnect(from source: String?) async throws { try await onLoop { $0.reconnect(from: source.map { IPAddress($0)! }) } }

  /// Runs `body` with a started node, and stops it after.
  static func with(
    _ controller: ControllerDouble, sources: [String] = [], limits: ControlLinkLimits = Node.limits, _ body: (Node) async throws -> Void
  ) async throws {
    let node = try await Node(to: controller.endpoint, sources: sources, limits: limits)
    try await node.start()
    do { try await body(node) } catch {
      try await node.stop()
      throw error
    }
    try await node.stop()
  }
}

private struct RecordingLog: LogHandler {
  let log: Inbox<Node.Line>
  var metadata: Logger.Metadata = [:]
  var logLevel = Logger.Level.trace

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) { log.put(Node.Line(level: event.level, text: "\(event.message)")) }
}
