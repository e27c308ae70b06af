import Control
import Paths
import Placement
import Vocabulary

/// What is told to people and programs that ask.
extension ControllerCore {
  static let version = "0.1.0"

  func status() -> StatusDocument {
    let machines = settings.machines.map { machine in
      let tracker = trackers[machine.name]
      let current = tracker?.current.flatMap { $0.isOver ? nil : $0.migration }
      return StatusDocument.Machine(
        machine: machine.name, home: tracker?.home,
        places: machine.places.map {
          StatusDocument.Place(
            site: $0.site, agent: $0.agent, hypervisor: $0.hypervisor.description, guest: tracker?.guestText(at: $0.site))
        }, migration: current)
    }
    return StatusDocument(
      version: ControllerCore.version, uptimeSeconds: (ControllerCore.now - startedAt).seconds, machines: machines, nodes: nodes.all.count,
      connectedNodes: nodes.all.count(where: \.isConnected))
  }

  func migrations() -> [MigrationReport] {
    let now = ControllerCore.now
    return settings.machines.flatMap { trackers[$0.name]?.reports(at: now) ?? [] }
  }

  func nodeDocuments() -> [NodeDocument] {
    let now = ControllerCore.now
    return nodes.all.map {
      NodeDocument(description: $0.description, isConnected: $0.isConnected, sinceSeconds: (now - $0.changedAt).seconds)
    }
  }

  func pathDocuments() -> [PathDocument] {
    let now = ControllerCore.now
    return Set(book.table.paths).union(book.decisions.keys).sorted().map { path in
      let estimate = book.table.estimate(of: path, at: now)
      let decision = book.decisions[path]
      return PathDocument(
        from: path.from, to: path.to, roundTripMilliseconds: estimate?.roundTrip.milliseconds,
        smoothedRoundTripMilliseconds: estimate?.smoothedRoundTrip.milliseconds,
        roundTripVariationMilliseconds: estimate?.roundTripVariation.milliseconds,
        rateMegabitsPerSecond: estimate?.rate?.megabitsPerSecond,
        configuredRateMegabitsPerSecond: book.configuredRate(of: path)?.megabitsPerSecond, lossPercent: estimate.map { $0.loss * 100 },
        ageSeconds: estimate.map { (now - $0.measuredAt).seconds }, isStale: estimate?.isStale ?? true,
        trouble: book.table.trouble(on: path), route: decision?.accelerators ?? [], isAccelerated: decision.map { !$0.isDirect } ?? false,
        reason: decision?.reason)
    }
  }
}

extension PlacementDecision {
  var isDirect: Bool { route == .direct }

  /// Those on the path, the client's side first.
  var accelerators: [NodeID] {
    switch route {
    case .direct: []
    case .through(let near, let far): [near.node, far.node]
    }
  }
}
