import Hypervisors
import Vocabulary

/// QEMU's own live migration from one process to another, commanded over QMP as a manager would.
struct LiveMigration: Sendable {
  enum Ending: Sendable, Hashable {
    case completed
    case cancelled
    case failed(String)
  }

  /// Where the destination takes the guest's memory in.
  private static let target = "tcp:\(Topology.migrationAddress):4444"
  /// QEMU's own default: it stops the guest when what is left needs no longer than this.
  private static let downtimeMilliseconds: Int64 = 300
  /// For migrations that are to be interrupted: slow enough that "half-way" is seconds long. 128 MiB at most are sent, so it would take 16 s.
  private static let interruptedOctetsPerSecond: Int64 = 8_000_000
  /// Half-way: so much of the memory is still to be sent. Zero pages go fast, and the rest is less than half of the RAM.
  private static let halfWay = 0.75
  private static let limit = TimeSpan.seconds(180 as Int64)

  private let source: VirtualMachine
  private let destination: VirtualMachine
  /// By the wall clock that QEMU stamps its events with, microseconds since 1970.
  private let begunAt: Int64

  /// Begins it: when this returns the memory is being copied.
  init(from source: VirtualMachine, to destination: VirtualMachine, _ settings: LabSettings) async throws {
    self.source = source
    self.destination = destination
    let events = JSON.object(["capabilities": .array([.object(["capability": .string("events"), "state": .boolean(true)])])])
    for side in [source, destination] { try await side.qmp.execute("migrate-set-capabilities", events) }
    let isInterrupted = settings.migration == .cancel || settings.migration == .killDestination
    let rate = isInterrupted ? LiveMigration.interruptedOctetsPerSecond : Int64(settings.migrationRate.bitsPerSecond / 8)
    try await source.qmp.execute(
      "migrate-set-parameters",
      .object(["max-bandwidth": .integer(rate), "downtime-limit": .integer(LiveMigration.downtimeMilliseconds)]))
    let uri = JSON.object(["uri": .string(LiveMigration.target)])
    try await destination.qmp.execute("migrate-incoming", uri)
    begunAt = wallMicroseconds()
    try await source.qmp.execute("migrate", uri)
  }

  /// Ends it in the middle, one way or the other.
  func interrupt(_ how: LabSettings.Migration) async throws {
    while true {
      let state = try await source.qmp.execute("query-migrate")
      let ram = state["ram"]
      // Over already, one way or the other: `ending` says which.
      if let status = state["status"]?.text, ["completed", "failed", "cancelled"].contains(status) { return }
      if let remaining = ram?["remaining"]?.double, let total = ram?["total"]?.double, remaining > 0,
        remaining < LiveMigration.halfWay * total
      {
        break
      }
      try await Task.sleep(for: .milliseconds(20))
    }
    if how == .cancel { try await source.qmp.execute("migrate_cancel") } else { destination.process.end() }
  }

  /// Waits for the source to say how it ended. `share` hears now and then how much of the memory has been sent, 0 to 1.
  func ending(_ share: @escaping @Sendable (Double) -> Void) async throws -> Ending {
    try await withThrowingTaskGroup(of: Ending?.self) { group in
      group.addTask {
        // Events of the guest's own arrival may stand before those of its departure.
        for await event in source.qmp.events where event.name == "MIGRATION" && event.atMicroseconds ?? .max >= begunAt {
          switch event.data["status"]?.text {
          case "completed": return .completed
          case "cancelled": return .cancelled
          case "failed":
            let reason = try? await source.qmp.execute("query-migrate")["error-desc"]?.text
            return .failed((reason ?? nil) ?? "the destination went away")
          default: break
          }
        }
        try Task.checkCancellation()
        throw LabError.migrationFailed("the hypervisor at \(source.site) ended: \(source.process.lastLines.joined(separator: " | "))")
      }
      group.addTask {
        try await Task.sleep(for: .seconds(LiveMigration.limit.seconds))
        throw LabError.migrationFailed(
          "no end within \(LiveMigration.limit.seconds) s; the guest may dirty its memory faster than --migration-rate")
      }
      group.addTask {
        while !Task.isCancelled {
          if let ram = try? await source.qmp.execute("query-migrate")["ram"], let remaining = ram["remaining"]?.double,
            let total = ram["total"]?.double, total > 0
          {
            share(1 - remaining / total)
          }
          try await Task.sleep(for: .milliseconds(250))
        }
        return nil
      }
      defer { group.cancelAll() }
      while let ending = try await group.next() {
        if let ending { return ending }
      }
      throw CancellationError()
    }
  }
}
