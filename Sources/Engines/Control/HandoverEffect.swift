import Vocabulary

/// Who an order is for.
package enum OrderAudience: Sendable, Hashable {
  /// The agent (or agents) of the machine.
  case agent
  case client(NodeID)
  case accelerator(NodeID)
}

/// An accelerator's tunnel that should be warm when the carrier comes.
package struct WarmTunnel: Sendable, Hashable {
  package var accelerator: NodeID
  package var peer: NodeID
  package var rate: BitRate
  package var roundTripMilliseconds: Double

  package init(accelerator: NodeID, peer: NodeID, rate: BitRate, roundTripMilliseconds: Double) {
    self.accelerator = accelerator
    self.peer = peer
    self.rate = rate
    self.roundTripMilliseconds = roundTripMilliseconds
  }
}

/// An accelerator whose cache should go ahead of a machine, and the one that it goes to.
package struct CacheFill: Sendable, Hashable {
  package var accelerator: NodeID
  package var peer: NodeID

  package init(accelerator: NodeID, peer: NodeID) {
    self.accelerator = accelerator
    self.peer = peer
  }
}

/// The way that a client's next carrier shall take, why, and what must be warm for it.
package struct ClientPath: Sendable, Hashable {
  package var choice: PathChoice
  package var reason: String
  package var warm: [WarmTunnel]
  /// Nil where no accelerator stands beside the machine now, or it is the same that will.
  package var fill: CacheFill?

  package init(choice: PathChoice, reason: String, warm: [WarmTunnel] = [], fill: CacheFill? = nil) {
    self.choice = choice
    self.reason = reason
    self.warm = warm
    self.fill = fill
  }
}

/// What a handover wants done.
package enum HandoverEffect: Sendable, Hashable {
  /// Decide the path of this client and `choose` it.
  case choosePath(client: NodeID)
  case order(NodeOrder, to: OrderAudience)
  /// A GO: the token has neither expiry nor MAC yet, since an engine has neither a wall clock nor a key.
  case go(GoToken, migration: MigrationID, to: NodeID)
  /// The same for the machine's agent, which passes it on over the carriers that it has: the second way of GO. Its path is direct; a client knows its own from PREPARE.
  case goThroughAgent(GoToken, migration: MigrationID)
  case ask(HypervisorQuestion, of: SiteID)
  case line(actor: String, event: String)
  /// The handover is over. Once.
  case finished(HandoverOutcome)
}

/// How a handover ended.
package struct HandoverOutcome: Sendable, Hashable, Codable {
  package enum Result: String, Sendable, Codable {
    /// The machine runs at the destination.
    case completed
    /// The machine runs at the source.
    case rolledBack
    /// Nobody could say where the machine runs, or both said so: a person must look.
    case unresolved
  }

  package var result: Result
  /// In words: why it was rolled back, what is left to look at.
  package var reason: String

  package init(result: Result, reason: String) {
    self.result = result
    self.reason = reason
  }
}

/// One handover as `GET /v1/migrations` tells it; times in milliseconds.
package struct MigrationReport: Sendable, Hashable, Codable {
  package struct Client: Sendable, Hashable, Codable {
    package var node: NodeID
    package var path: PathChoice?
    package var pathReason: String?
    /// From the destination's RESUME to the arrival of the client's report, by the controller's clock: it includes the report's way.
    package var resumeToMovedMilliseconds: Double?
    /// From the client's taking the GO to its confirmed carrier, by the client's clock.
    package var goToConfirmedMilliseconds: Double?
    /// From QEMU's own time stamp of RESUME to the client's of its report: right as far as the two wall clocks agree.
    package var stampedResumeToMovedMilliseconds: Double?
    /// Why it could not move, if it said so.
    package var trouble: String?
  }

  package var migration: MigrationID
  package var machine: MachineID
  package var source: SiteID
  package var destination: SiteID
  package var epoch: UInt64
  /// `copying`, `frozen`, `moving`, `returning` or the outcome.
  package var state: String
  package var reason: String?
  package var clients: [Client]
  package var figures: MigrationFigures
  /// From QEMU's time stamp of the source's STOP to that of the destination's RESUME.
  package var stopToResumeMilliseconds: Double?
  /// From RESUME seen to GO sent.
  package var resumeToGoMilliseconds: Double?
  /// From RESUME seen to the last client's report.
  package var goLatencyMilliseconds: Double?
  package var elapsedMilliseconds: Double
}
