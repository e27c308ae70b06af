import Control
import NIOCore
import Paths
import Vocabulary

/// Why a node's request was refused.
enum NodeRefusal: Error, Sendable, Hashable {
  case badRequest(String)
  case notRegistered(NodeID)
  case full

  var line: String {
    switch self {
    case .badRequest(let problem): problem
    case .notRegistered(let node): "node \(node) is not registered: POST /v1/nodes first"
    case .full: "the controller has \(NodeRegistry.maximumNodes) nodes, and no place for more"
    }
  }
}

/// What nodes do: register, ask for orders, report.
extension ControllerCore {
  /// How far a node's stamp may be from its report's arrival before the timeline tells both.
  private static let notableDelay: Int64 = 50_000
  /// To the year 9999; differences of such moments always fit.
  private static let plausibleStamps: ClosedRange<Int64> = 0...253_402_300_799_000_000

  // MARK: Registration

  func register(_ description: NodeDescription) throws(NodeRefusal) {
    try check(description)
    let now = ControllerCore.now
    let node = description.node
    let isKnown = nodes[node] != nil
    if !isKnown, nodes.isFull { nodes.makeRoom(at: now) }
    guard isKnown || !nodes.isFull else { throw .full }
    let before = nodes[node]?.description
    nodes.register(description, at: now)
    note(
      "\(description.role.rawValue) \(isKnown ? "registered again" : "registered")\(description.site.map { " at \($0)" } ?? "")",
      actor: node.text)
    if let before, before.role == .client {
      for machine in before.machines where description.role != .client || !description.machines.contains(machine) {
        trackers[machine]?.leave(node)
      }
    }
    spreadTargets()
    spreadMap()
    join(description, at: now)
    tell()
  }

  /// Tells the machines' handovers, which tell the node where they stand.
  private func join(_ description: NodeDescription, at now: Instant) {
    switch description.role {
    case .client:
      for machine in description.machines {
        guard trackers[machine] != nil else {
          note("\(description.node) has sessions with \(machine), which is not in the settings; its migrations are not watched")
          continue
        }
        trackers[machine]?.join(description.node, at: now)
        expectHome(description.node, machine, at: now)
        settle(machine)
      }
    case .agent:
      guard let machine = description.machine else { return }
      trackers[machine]?.joinAgent(at: now)
      settle(machine)
      // A FENCE may have been lost with the agent's link, which breaks when its machine moves.
      if let standing = trackers[machine]?.standing {
        send(
          .fence(migration: MigrationID("\(machine)-\(standing.epoch)"), machine: machine, agent: standing.place.agent),
          to: description.node)
      }
    case .accelerator: break
    }
  }

  private func check(_ description: NodeDescription) throws(NodeRefusal) {
    guard PlainName.isPlain(description.node.text) else { throw .badRequest("node: \"\(description.node)\" is not \(PlainName.rule)") }
    if let site = description.site, !settings.sites.contains(where: { $0.name == site }) {
      let known = settings.sites.map(\.name.text).joined(separator: ", ")
      throw .badRequest("site \(site) of \(description.node) is not in the controller's settings; known are \(known)")
    }
    guard description.machines.count <= ControllerSettings.maximumMachines else {
      throw .badRequest("machines: more than \(ControllerSettings.maximumMachines)")
    }
    switch description.role {
    case .agent:
      guard let machine = description.machine, trackers[machine] != nil else {
        let known = trackers.keys.sorted().map(\.text).joined(separator: ", ")
        throw .badRequest(
          "machine \(description.machine?.text ?? "(none)") of agent \(description.node) is not in the controller's settings; known are \(known)"
        )
      }
    case .accelerator:
      guard description.site != nil else {
        throw .badRequest("accelerator \(description.node) does not say at which site it stands (--site)")
      }
    case .client: break
    }
  }

  // MARK: Orders

  func open(_ stream: EventStream, for node: NodeID) throws(NodeRefusal) {
    guard nodes.open(stream, for: node, at: ControllerCore.now) else { throw .notRegistered(node) }
    spreadTargets()
  }

  func close(_ stream: EventStream, of node: NodeID) {
    guard nodes.close(stream, of: node, at: ControllerCore.now) else { return }
    note("link to \(node) lost")
    tell()
  }

  // MARK: Probes

  /// Tells each client and accelerator whom to probe, if that changed.
  func spreadTargets() {
    let now = ControllerCore.now
    let responders = settings.sites.compactMap { site in
      (nodes.responder(at: site.name, at: now) ?? site.probe).map { (site: site.name, address: $0) }
    }
    let interval = settings.probeInterval.nanoseconds / 1_000_000
    for entry in nodes.all where entry.description.role != .agent {
      // Without a site of its own there is no path to hold its measurements against.
      guard let own = entry.description.site else { continue }
      let targets = responders.filter { $0.site != own }.map {
        ProbeTarget(site: $0.site, address: $0.address, intervalMilliseconds: interval)
      }
      guard targets != entry.targets else { continue }
      nodes.setTargets(targets, of: entry.description.node)
      send(.probe(targets: targets), to: entry.description.node)
    }
  }

  // MARK: Reports

  func receive(_ reports: [TimedReport], from node: NodeID) throws(NodeRefusal) {
    guard let description = nodes[node]?.description else { throw .notRegistered(node) }
    guard reports.allSatisfy({ ControllerCore.plausibleStamps.contains($0.atMicroseconds) }) else {
      throw .badRequest("atMicroseconds: must be microseconds since 1970")
    }
    for report in reports where nodes.isNews(report, from: node) { receive(report, from: description) }
    tell()
  }

  private func receive(_ timed: TimedReport, from sender: NodeDescription) {
    let now = ControllerCore.now
    switch timed.report {
    case .measured(let site, let roundTrip, let rate):
      guard let from = sender.site else { return }
      let path = PathID(from: from, to: site)
      guard book.measured(path, roundTripMilliseconds: roundTrip, rateMegabitsPerSecond: rate, at: now) else { return }
      judge(path, at: now)
      if homecomers.contains(where: { $0.client == sender.node }) { sendHome() }
    case .unreachable(let site, let reason):
      guard let from = sender.site else { return }
      book.unreachable(PathID(from: from, to: site), reason: reason, at: now)
    case .announced(let machine, let agent, let sessions):
      note(
        "\(agent) of \(machine) is announced in \(sessions == 1 ? "1 session" : "\(sessions) sessions")\(delay(of: timed))",
        actor: sender.node.text)
    case .moved(let machine, let epoch, let took):
      if trackers[machine]?.standing?.epoch == epoch, took != 0 {
        note("session with \(machine) has moved, \(figure(took)) ms after GO\(delay(of: timed))", actor: sender.node.text)
      }
      pass(timed, of: machine, from: sender, at: now)
    case .recovered(let machine, let agent):
      note("session with \(machine) recovered at \(agent)\(delay(of: timed))", actor: sender.node.text)
      if trackers[machine] != nil, sender.role == .client { expectHome(sender.node, machine, at: now) }
    case .stuck(let machine, let epoch, let reason):
      note("cannot follow \(machine) to epoch \(epoch): \(reason)\(delay(of: timed))", actor: sender.node.text)
      pass(timed, of: machine, from: sender, at: now)
    case .event(let text): note("\(text)\(delay(of: timed))", actor: sender.node.text)
    }
  }

  private func pass(_ timed: TimedReport, of machine: MachineID, from sender: NodeDescription, at now: Instant) {
    trackers[machine]?.receive(timed.report, from: sender.node, stamp: timed.atMicroseconds, at: now)
    settle(machine)
  }

  /// Keeps the rule's memory: how long a path has been on the good side is seen only by looking.
  private func judge(_ path: PathID, at now: Instant) {
    let before = book.decisions[path]?.route
    let decision = decide(path, at: now)
    guard before != decision.route, before != nil || decision.route != .direct else { return }
    note("path from \(path) should be \(decision.isDirect ? "" : "accelerated: ")\(decision.reason)")
  }

  private func delay(of timed: TimedReport) -> String {
    let late = WallClock.microseconds - timed.atMicroseconds
    guard late.magnitude > ControllerCore.notableDelay else { return "" }
    let (seconds, rest) = timed.atMicroseconds.quotientAndRemainder(dividingBy: 1_000_000)
    return " (stamped \(seconds).\(String(String(rest.magnitude + 1_000_000).dropFirst())))"
  }
}
