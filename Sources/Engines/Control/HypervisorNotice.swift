import Vocabulary

/// How far a migration is, in QEMU's words for `MIGRATION` events and `query-migrate`.
package enum MigrationPhase: Sendable, Hashable {
  case setup, active, preSwitchover, device, postcopyActive, postcopyPaused, completed, failed, cancelling, cancelled
  /// A word that we do not know: in progress.
  case other(String)

  package init(_ text: String) {
    switch text {
    case "setup": self = .setup
    case "active": self = .active
    case "pre-switchover": self = .preSwitchover
    case "device": self = .device
    case "postcopy-active": self = .postcopyActive
    case "postcopy-paused": self = .postcopyPaused
    case "completed": self = .completed
    case "failed": self = .failed
    case "cancelling": self = .cancelling
    case "cancelled": self = .cancelled
    default: self = .other(text)
    }
  }

  package var text: String {
    switch self {
    case .setup: "setup"
    case .active: "active"
    case .preSwitchover: "pre-switchover"
    case .device: "device"
    case .postcopyActive: "postcopy-active"
    case .postcopyPaused: "postcopy-paused"
    case .completed: "completed"
    case .failed: "failed"
    case .cancelling: "cancelling"
    case .cancelled: "cancelled"
    case .other(let text): text
    }
  }

  /// Neither completed nor given up.
  package var isInProgress: Bool {
    switch self {
    case .completed, .failed, .cancelled: false
    case .setup, .active, .preSwitchover, .device, .postcopyActive, .postcopyPaused, .cancelling, .other: true
    }
  }

  /// The guest's memory arrives (or arrives still, behind the running guest).
  package var isTransferring: Bool { self == .active || self == .postcopyActive }
}

/// What a hypervisor says of its guest, in QEMU's words for `query-status`.
package enum GuestState: Sendable, Hashable {
  case running
  /// `inmigrate`: the process waits for a guest.
  case incoming
  /// `postmigrate`: the guest has left.
  case departed
  /// A state in which the guest does not run, by its name: `paused`, `finish-migrate`, `shutdown` ...
  case halted(String)
  /// A word that we do not know; the guest may run.
  case unknown(String)

  /// The states of QEMU's `RunState` in which no virtual processor runs.
  private static let halts: Set<String> = [
    "colo", "finish-migrate", "guest-panicked", "internal-error", "io-error", "paused", "preconfig", "prelaunch", "restore-vm", "save-vm",
    "shutdown", "suspended", "watchdog",
  ]

  package init(_ text: String) {
    switch text {
    case "running": self = .running
    case "inmigrate": self = .incoming
    case "postmigrate": self = .departed
    default: self = GuestState.halts.contains(text) ? .halted(text) : .unknown(text)
    }
  }

  package var text: String {
    switch self {
    case .running: "running"
    case .incoming: "inmigrate"
    case .departed: "postmigrate"
    case .halted(let text), .unknown(let text): text
    }
  }

  package var mayRun: Bool {
    switch self {
    case .running, .unknown: true
    case .incoming, .departed, .halted: false
    }
  }
}

/// What a hypervisor tells of a migration in figures, as far as it does.
package struct MigrationFigures: Sendable, Hashable, Codable {
  package var downtimeMilliseconds: Double?
  package var expectedDowntimeMilliseconds: Double?
  package var totalMilliseconds: Double?
  package var setupMilliseconds: Double?
  package var processorThrottlePercent: Double?
  package var transferredOctets: Int64?
  package var remainingOctets: Int64?
  package var dirtyPagesPerSecond: Int64?
  package var megabitsPerSecond: Double?
  package var downtimeOctets: Int64?
  package var postcopyOctets: Int64?
  /// The hypervisor's own words for a failure.
  package var errorDescription: String?

  package init() {}
}

/// What a watcher can be asked to find out; the answer comes as a notice, in its place among the others.
package enum HypervisorQuestion: Sendable, Hashable {
  /// `query-status`.
  case guest
  /// `query-migrate`.
  case migration
}

/// What a watcher says of its hypervisor. The order is the hypervisor's own: an answer behind an event was given after it.
package enum HypervisorEvent: Sendable, Hashable {
  /// There is a connection (again). What was known from before it may be out of date.
  case connected
  /// The connection is gone; whether the hypervisor is, nobody knows.
  case lost(reason: String)
  /// The hypervisor is gone: nothing listens where it did. Only after `lost`, or in place of it.
  case gone(reason: String)
  /// The guest was stopped (QMP `STOP`).
  case stopped
  /// The guest runs from now on (QMP `RESUME`).
  case resumed
  case migration(MigrationPhase)
  /// The answer to `.guest`.
  case guest(GuestState)
  /// The answer to `.migration`; no phase: the hypervisor knows of none.
  case figures(MigrationPhase?, MigrationFigures)
  /// There was no answer, or a refusal.
  case unanswered(HypervisorQuestion, reason: String)
}

extension HypervisorEvent: CustomStringConvertible {
  /// For the timeline.
  package var description: String {
    switch self {
    case .connected: "connected"
    case .lost(let reason): "connection lost: \(reason)"
    case .gone(let reason): "gone: \(reason)"
    case .stopped: "STOP"
    case .resumed: "RESUME"
    case .migration(let phase): "MIGRATION \(phase.text)"
    case .guest(let state): "status: \(state.text)"
    case .figures(let phase, _): "migration: \(phase?.text ?? "none")"
    case .unanswered(let question, let reason): "\(question == .guest ? "query-status" : "query-migrate") without an answer: \(reason)"
    }
  }
}

package struct HypervisorNotice: Sendable, Hashable {
  package var site: SiteID
  package var event: HypervisorEvent
  /// The hypervisor's own wall clock, microseconds since 1970, if it gave it.
  package var stampMicroseconds: Int64?

  package init(site: SiteID, event: HypervisorEvent, stampMicroseconds: Int64? = nil) {
    self.site = site
    self.event = event
    self.stampMicroseconds = stampMicroseconds
  }
}
