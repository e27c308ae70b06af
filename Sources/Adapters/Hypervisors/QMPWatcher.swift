import Control
import Logging
import Synchronization
import Vocabulary

/// Watches one QEMU over QMP. It takes a socket of its own (`-qmp unix:...` can be given twice): QEMU serves one client a socket.
package final class QMPWatcher: HypervisorWatcher {
  /// Notices that wait for their reader: as many as the connection holds events. When so many wait nobody reads, and the connection is given up.
  package static let maximumNotices = QMPConnection.maximumEvents

  /// What was said last of the hypervisor's being there, so that it is said once.
  private enum Presence { case unknown, connected, lost, gone }

  package let site: SiteID
  package let address: QMPAddress
  package let notices: AsyncStream<HypervisorNotice>
  private let sink: AsyncStream<HypervisorNotice>.Continuation
  private let limits: WatcherLimits
  private let logger: Logger
  private let connection = Mutex<QMPConnection?>(nil)

  package init(site: SiteID, address: QMPAddress, limits: WatcherLimits = WatcherLimits(), logger: Logger) {
    self.site = site
    self.address = address
    self.limits = limits
    self.logger = logger
    (notices, sink) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(QMPWatcher.maximumNotices))
  }

  package func ask(_ question: HypervisorQuestion) {
    guard let connection = connection.withLock({ $0 }) else {
      return say(.unanswered(question, reason: "there is no connection to the hypervisor"))
    }
    connection.inquire(question.command, limit: limits.answer)
  }

  // MARK: Staying connected

  package func run() async {
    var presence = Presence.unknown
    var pause = limits.firstPause
    while !Task.isCancelled {
      do {
        let connection = try await QMPConnection.connect(to: address, limit: limits.connect)
        presence = .connected
        pause = limits.firstPause
        let reason = await follow(connection)
        guard !Task.isCancelled else { break }
        presence = .lost
        logger.debug("hypervisor lost", metadata: ["site": "\(site)", "address": "\(address)", "reason": "\(reason)"])
        say(.lost(reason: reason))
      } catch {
        presence = tell(error, after: presence)
        do { try await Task.sleep(for: .nanoseconds(pause.nanoseconds)) } catch { break }
        pause = min(pause * 2, longestPause)
      }
    }
    sink.finish()
  }

  private var longestPause: TimeSpan {
    if case .unix = address { return limits.longestLocalPause }
    return limits.longestPause
  }

  /// A hypervisor that is not there is the everyday case, so it is told once; anything else may need a person.
  private func tell(_ error: QMPError, after presence: Presence) -> Presence {
    switch error {
    case .absent(_, let reason):
      if presence != .gone {
        logger.debug("no hypervisor yet", metadata: ["site": "\(site)", "address": "\(address)", "reason": "\(reason)"])
        say(.gone(reason: reason))
      }
      return .gone
    default:
      if presence == .unknown || presence == .gone {
        logger.warning("\(error)", metadata: ["site": "\(site)"])
        say(.lost(reason: "\(error)"))
      }
      return .lost
    }
  }

  /// Until the connection ends; returns why.
  private func follow(_ connection: QMPConnection) async -> String {
    let hasEvents = await withTaskCancellationHandler {
      await turnOnEvents(of: connection)
    } onCancel: {
      connection.close()
    }
    // Who hears `connected` asks at once, so questions must reach the connection by then; answers come through its events, which are read below.
    self.connection.withLock { $0 = connection }
    say(.connected)
    logger.debug("hypervisor connected", metadata: ["site": "\(site)", "address": "\(address)"])
    let polling = hasEvents ? nil : Task { await pollInsteadOfEvents(of: connection) }
    await withTaskCancellationHandler {
      for await event in connection.events {
        if let notice = notice(of: event) { say(notice, stamp: event.answer == nil ? event.atMicroseconds : nil) }
      }
    } onCancel: {
      connection.close()
    }
    polling?.cancel()
    self.connection.withLock { $0 = nil }
    return (try? await connection.closing.get()) ?? "it was closed"
  }

  // MARK: Migration events

  /// Turns the capability on without touching others: QEMU merges what it is given into what it has. False if it would not.
  private func turnOnEvents(of connection: QMPConnection) async -> Bool {
    do throws(QMPError) {
      let capabilities = try await connection.execute("query-migrate-capabilities", limit: limits.answer).elements ?? []
      let isOn = capabilities.contains { $0["capability"] == "events" && $0["state"] == true }
      if !isOn {
        let wanted: JSON = ["capabilities": [["capability": "events", "state": true]]]
        try await connection.execute("migrate-set-capabilities", wanted, limit: limits.answer)
      }
      return true
    } catch {
      // QEMU refuses while a migration runs; STOP and RESUME come all the same, the rest is asked for.
      logger.notice(
        "migration events are off, so the migration is asked about every \(limits.poll.milliseconds) ms",
        metadata: ["site": "\(site)", "reason": "\(error)"])
      return false
    }
  }

  private func pollInsteadOfEvents(of connection: QMPConnection) async {
    while !Task.isCancelled {
      do { try await Task.sleep(for: .nanoseconds(limits.poll.nanoseconds)) } catch { return }
      connection.inquire(HypervisorQuestion.migration.command, limit: limits.answer)
      let wanted: JSON = ["capabilities": [["capability": "events", "state": true]]]
      if (try? await connection.execute("migrate-set-capabilities", wanted, limit: limits.answer)) != nil {
        return logger.info("migration events are on", metadata: ["site": "\(site)"])
      }
    }
  }

  // MARK: Words

  private func say(_ event: HypervisorEvent, stamp: Int64? = nil) {
    let result = sink.yield(HypervisorNotice(site: site, event: event, stampMicroseconds: stamp))
    if case .dropped = result {
      // A reader that misses one would judge wrongly; after the next `connected` it asks anew.
      connection.withLock { $0 }?.close()
    }
  }

  private func notice(of event: QMPEvent) -> HypervisorEvent? {
    switch event.answer {
    case .some(.success(let value)): HypervisorQuestion(command: event.name).map { $0.event(answeredBy: value) }
    case .some(.failure(let error)): HypervisorQuestion(command: event.name).map { .unanswered($0, reason: "\(error)") }
    case nil:
      switch event.name {
      case "STOP": .stopped
      case "RESUME": .resumed
      case "MIGRATION": event.data["status"]?.text.map { .migration(MigrationPhase($0)) }
      default: nil
      }
    }
  }
}

extension HypervisorQuestion {
  fileprivate var command: String {
    switch self {
    case .guest: "query-status"
    case .migration: "query-migrate"
    }
  }

  fileprivate init?(command: String) {
    switch command {
    case "query-status": self = .guest
    case "query-migrate": self = .migration
    default: return nil
    }
  }

  fileprivate func event(answeredBy value: JSON) -> HypervisorEvent {
    switch self {
    case .guest:
      if let status = value["status"]?.text { return .guest(GuestState(status)) }
      return .unanswered(.guest, reason: "an answer without a status: \(value.line.prefix(200))")
    case .migration: return .figures(value["status"]?.text.map { MigrationPhase($0) }, MigrationFigures(value))
    }
  }
}

extension MigrationFigures {
  /// From the answer to `query-migrate`; what a version does not tell stays nil.
  fileprivate init(_ answer: JSON) {
    self.init()
    downtimeMilliseconds = answer["downtime"]?.double
    expectedDowntimeMilliseconds = answer["expected-downtime"]?.double
    totalMilliseconds = answer["total-time"]?.double
    setupMilliseconds = answer["setup-time"]?.double
    processorThrottlePercent = answer["cpu-throttle-percentage"]?.double
    errorDescription = answer["error-desc"]?.text
    let memory = answer["ram"]
    transferredOctets = memory?["transferred"]?.int
    remainingOctets = memory?["remaining"]?.int
    dirtyPagesPerSecond = memory?["dirty-pages-rate"]?.int
    megabitsPerSecond = memory?["mbps"]?.double
    downtimeOctets = memory?["downtime-bytes"]?.int
    postcopyOctets = memory?["postcopy-bytes"]?.int
  }
}
