import Control
import Paths
import Placement
import Vocabulary

/// Where machines are and which path leads there, while no migration is going on: clients that have just come hear it, and so do all whose path the policy changes, or
/// whose machine is found elsewhere. It is a GO in a fresh epoch; a client that is there already only notes the epoch.
extension ControllerCore {
  struct Homecomer: Sendable {
    var client: NodeID
    var machine: MachineID
    var since: Instant
  }

  /// How long the path to the machine may be unmeasured before the client is told all the same: probes come every second, and this is looked at every two.
  static let estimatePatience = TimeSpan.seconds(4 as Int64)
  /// After the controller's start: accelerators that it knew before need so long to register again (2.5 s between two tries, 2 s for a connection). Until then a path that
  /// lacks them is not called direct: a session that runs through them would be taken off.
  static let returnHold = TimeSpan.seconds(5 as Int64)
  /// From the order to warm a tunnel until a session is led onto it: the session runs where it is, so nothing is lost by waiting.
  static let warmLead = TimeSpan.seconds(2 as Int64)
  /// Between two epochs of one machine that no migration began: they keep step with the seconds since 1970.
  static let epochInterval = TimeSpan.seconds(1 as Int64)
  /// Clients that wait to be told: all that can be registered, with four machines each.
  static let maximumHomecomers = 4 * NodeRegistry.maximumNodes

  func expectHome(_ client: NodeID, _ machine: MachineID, at now: Instant) {
    homecomers.removeAll { $0.client == client && $0.machine == machine }
    if homecomers.count == ControllerCore.maximumHomecomers { homecomers.removeFirst() }
    homecomers.append(Homecomer(client: client, machine: machine, since: now))
  }

  /// The decision for a path has changed: the sessions that run on it follow.
  func reroute(_ path: PathID, at now: Instant) {
    for machine in trackers.keys.sorted() where trackers[machine]?.standing?.place.site == path.to {
      for entry in nodes.all where entry.description.role == .client && entry.description.site == path.from {
        if entry.description.machines.contains(machine) { expectHome(entry.description.node, machine, at: now) }
      }
    }
  }

  /// Looks whether a machine runs elsewhere than its clients were told: restored from a snapshot, started anew, moved while nobody watched.
  func checkHome(of machine: MachineID, at now: Instant) {
    guard let home = trackers[machine]?.certainHome else { return }
    let before = homes.updateValue(home, forKey: machine)
    guard let before, before != home else { return }
    note("\(machine) runs at \(home) now, and no migration from \(before) was seen: its clients are told")
    for entry in nodes.all where entry.description.role == .client && entry.description.machines.contains(machine) {
      expectHome(entry.description.node, machine, at: now)
    }
    sendHome()
  }

  /// Tells those who wait, as far as it is known.
  func sendHome() {
    let now = ControllerCore.now
    // A handover that has begun tells its clients itself; a machine that nobody knows of cannot be told of.
    homecomers.removeAll { nodes[$0.client] == nil || trackers[$0.machine]?.isInHandover == true }
    for machine in Set(homecomers.map(\.machine)).sorted() {
      guard let place = trackers[machine]?.standing?.place else { continue }
      if let last = homeEpochs[machine], now - last < ControllerCore.epochInterval { continue }
      let ready = homecomers.filter { $0.machine == machine }.compactMap { entry in
        path(home: entry, to: place, at: now).map { (client: entry.client, choice: $0) }
      }
      guard !ready.isEmpty, let epoch = trackers[machine]?.beginEpoch(atLeast: UInt64(max(0, WallClock.seconds))) else { continue }
      homeEpochs[machine] = now
      for (client, choice) in ready {
        sendPaced(
          .go(
            migration: MigrationID("\(machine)-\(epoch)"),
            token: sign(GoToken(machine: machine, epoch: epoch, agent: place.agent, path: choice, expires: 0))),
          to: client, of: machine)
        homecomers.removeAll { $0.client == client && $0.machine == machine }
      }
    }
  }

  /// Nil while it is too early to say.
  private func path(home entry: Homecomer, to place: MachinePlace, at now: Instant) -> PathChoice? {
    guard let site = nodes[entry.client]?.description.site, site != place.site else { return .direct }
    let path = PathID(from: site, to: place.site)
    guard book.table.estimate(of: path, at: now) != nil || now - entry.since >= ControllerCore.estimatePatience else { return nil }
    let decision = decide(path, at: now)
    guard !decision.isDirect else {
      let isWell = decision.estimate != nil && !decision.isCalledFor
      return isWell || now - startedAt >= ControllerCore.returnHold ? .direct : nil
    }
    let choice = book.clientPath(decision, on: path)
    if let warmed = warmedAt[path], now - warmed < HandoverLimits().warmHold {
      return now - warmed >= ControllerCore.warmLead ? choice.choice : nil
    }
    warmedAt[path] = now
    for tunnel in choice.warm {
      send(
        .warm(
          peer: tunnel.peer, rate: tunnel.rate, roundTripMilliseconds: tunnel.roundTripMilliseconds,
          holdMilliseconds: HandoverLimits().warmHold.nanoseconds / 1_000_000), to: tunnel.accelerator)
    }
    return nil
  }
}
