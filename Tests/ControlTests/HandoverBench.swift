import Control
import Vocabulary

/// A handover from center1 to center2 on a bench: events in, effects kept in order, a clock that the test moves.
struct HandoverBench {
  var machine: HandoverMachine
  var now = Instant.zero
  /// Everything that came out so far.
  var effects: [HandoverEffect] = []
  private var read = 0

  static let source = MachinePlace(site: "center1", agent: Endpoint("10.1.0.3:7600")!)
  static let destination = MachinePlace(site: "center2", agent: Endpoint("10.2.0.4:7600")!)
  static let accelerated = PathChoice.accelerated(entrance: Endpoint("10.0.1.3:3128")!, accelerators: ["a", "b"])
  static let path = ClientPath(
    choice: accelerated, reason: "round trip 300 ms from access to center2 exceeds 50 ms",
    warm: [WarmTunnel(accelerator: "a", peer: "b", rate: .megabitsPerSecond(100), roundTripMilliseconds: 300)])

  init(clients: [NodeID] = ["client"], limits: HandoverLimits = HandoverLimits()) {
    machine = HandoverMachine(
      migration: "vm-7", machine: "vm", from: Self.source, to: Self.destination, epoch: 7, clients: clients, sourceGuest: .running,
      limits: limits, at: .zero)
    drain()
  }

  mutating func source(_ events: HypervisorEvent...) {
    for event in events {
      machine.receive(event, from: .source, at: now)
      drain()
    }
  }

  mutating func destination(_ events: HypervisorEvent...) {
    for event in events {
      machine.receive(event, from: .destination, at: now)
      drain()
    }
  }

  mutating func report(_ report: NodeReport, from node: NodeID = "client") {
    machine.receive(report, from: node, stamp: 0, at: now)
    drain()
  }

  mutating func moved(_ node: NodeID = "client") { report(.moved(machine: "vm", epoch: 7, goToConfirmedMilliseconds: 310), from: node) }

  mutating func choose(_ path: ClientPath = Self.path, for client: NodeID = "client") {
    machine.choose(path, for: client, at: now)
    drain()
  }

  /// Moves the clock, firing each deadline at its time.
  mutating func pass(_ span: TimeSpan) {
    let end = now + span
    while let deadline = machine.deadline, deadline <= end {
      now = max(now, deadline)
      machine.handleDeadline(at: now)
      drain()
    }
    now = end
  }

  mutating func drain() {
    while let effect = machine.nextEffect() { effects.append(effect) }
  }

  // MARK: What came out

  /// The effects since the last call.
  mutating func news() -> [HandoverEffect] {
    defer { read = effects.count }
    return Array(effects[read...])
  }

  var gos: [GoToken] { effects.compactMap { if case .go(let token, _, _) = $0 { token } else { nil } } }
  var outcome: HandoverOutcome? { machine.outcome }
  var lines: [String] { effects.compactMap { if case .line(_, let event) = $0 { event } else { nil } } }
  func asked(_ question: HypervisorQuestion, _ site: SiteID) -> Int { effects.count { $0 == .ask(question, of: site) } }

  func orders(to audience: OrderAudience) -> [NodeOrder] {
    effects.compactMap {
      if case .order(let order, audience) = $0 { order } else { nil }
    }
  }

  var rollBacks: Int {
    effects.count { if case .order(.rollBack, _) = $0 { true } else { false } }
  }
  var freezes: Int {
    effects.count { if case .order(.freeze, _) = $0 { true } else { false } }
  }
  var fences: Int {
    effects.count { if case .order(.fence, _) = $0 { true } else { false } }
  }
}
