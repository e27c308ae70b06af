import Control
import Logging
import NIOCore
import Vocabulary

/// Probes the places that the controller names, each on a connection of its own, and says what it finds. On one event loop.
package final class PathProber {
  private struct Key: Hashable {
    var site: SiteID
    var address: Endpoint
  }

  private let loop: any EventLoop
  private let limits: ProbeLimits
  private let logger: Logger
  private let report: (NodeReport) -> Void
  private var connections: [Key: ProbeConnection] = [:]
  /// Sites whose last finding was a failure: the log tells of the change, not of each probe.
  private var unreachable: Set<Key> = []
  private var isStopped = false

  /// - Parameter report: called on the loop with `.measured` and `.unreachable`.
  package init(loop: any EventLoop, logger: Logger, limits: ProbeLimits = ProbeLimits(), report: @escaping (NodeReport) -> Void) {
    self.loop = loop
    self.limits = limits
    self.logger = logger
    self.report = report
  }

  /// Replaces the targets; connections to those that stay are kept.
  package func watch(_ targets: [ProbeTarget]) {
    loop.preconditionInEventLoop()
    guard !isStopped else { return }
    if targets.count > ProbeLimits.maximumTargets {
      logger.warning("\(targets.count) places to probe: only the first \(ProbeLimits.maximumTargets) are")
    }
    var kept: [Key: ProbeConnection] = [:]
    for target in targets.prefix(ProbeLimits.maximumTargets) {
      let key = Key(site: target.site, address: target.address)
      let interval = max(.milliseconds(target.intervalMilliseconds), ProbeLimits.shortestInterval)
      if let connection = kept[key] ?? connections[key] {
        connection.setInterval(interval)
        kept[key] = connection
      } else {
        kept[key] = begin(key, interval)
      }
    }
    for (key, connection) in connections where kept[key] == nil {
      connection.stop()
      unreachable.remove(key)
    }
    let new = kept.filter { connections[$0.key] == nil }
    connections = kept
    for connection in new.values { connection.start() }
  }

  package func stop() {
    loop.preconditionInEventLoop()
    isStopped = true
    for connection in connections.values { connection.stop() }
    connections = [:]
  }

  private func begin(_ key: Key, _ interval: TimeSpan) -> ProbeConnection {
    ProbeConnection(address: key.address, interval: interval, loop: loop, limits: limits) { [weak self] result in
      guard let self else { return }
      switch result {
      case .success(let found): self.found(found.roundTrip, found.rate, key)
      case .failure(let failure): self.failed(failure, key)
      }
    }
  }

  private func found(_ roundTrip: TimeSpan, _ rate: BitRate?, _ key: Key) {
    if unreachable.remove(key) != nil { logger.info("site \(key.site) answers probes at \(key.address) again") }
    report(.measured(site: key.site, roundTripMilliseconds: roundTrip.milliseconds, rateMegabitsPerSecond: rate?.megabitsPerSecond))
  }

  private func failed(_ failure: ProbeFailure, _ key: Key) {
    if unreachable.insert(key).inserted { logger.info("site \(key.site) does not answer probes at \(key.address): \(failure)") }
    report(.unreachable(site: key.site, reason: "probe of \(key.address): \(failure)"))
  }
}
