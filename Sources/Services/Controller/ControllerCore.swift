import Authentication
import Certificates
import Control
import Hypervisors
import Logging
import NIOCore
import Paths
import Placement
import Vocabulary

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// The controller's state, one thing at a time: every notice, report and request passes through here in some order, and what follows from it
/// has been done when the next one comes.
actor ControllerCore {
  /// How long a GO may be used after it was signed. A client takes it within a round trip; while it has not moved, a fresh one comes every second.
  static let goLifetimeSeconds: Int64 = 60
  /// People (and tests) that follow the timeline at once.
  static let maximumFollowers = 64
  /// The actor of the controller's own lines; the handovers use it, too.
  static let name = "controller"
  /// Between two keep-alives on every stream; nodes take three of them for the limit of a dead link (docs/wire/control.md).
  static let keepAliveInterval = TimeSpan.seconds(2 as Int64)

  let settings: ControllerSettings
  let startedAt: Instant
  private let key: EndpointKey?
  private let identity: IdentityKeeper?
  private let logger: Logger
  private let watchers: [MachineID: [SiteID: any HypervisorWatcher]]
  private let encoder: JSONEncoder
  var trackers: [MachineID: MachineTracker] = [:]
  var nodes = NodeRegistry()
  var book: PathBook
  private(set) var timeline = Timeline()
  private var followers: [EventStream] = []
  /// Entries that are kept already, but not yet logged and sent to followers: orders go first.
  private var untold: [TimelineEntry] = []
  /// Clients that have registered, and have not been told yet where their machine is.
  var homecomers: [Homecomer] = []
  /// Where each machine ran when it was last certain.
  var homes: [MachineID: SiteID] = [:]
  /// When each machine's last epoch without a migration began.
  var homeEpochs: [MachineID: Instant] = [:]
  /// When the tunnel of a path was last ordered to be warmed for a session that runs already.
  var warmedAt: [PathID: Instant] = [:]
  /// GOs that wait for their turn, and how fast each machine's clients are told.
  var waitingGo: [NodeID: NodeOrder] = [:]
  var pacing: [MachineID: GoPacing] = [:]
  private var alarm: (at: Instant, task: Task<Void, Never>)?

  init(
    settings: ControllerSettings, key: EndpointKey?, identity: IdentityKeeper? = nil,
    watchers: [MachineID: [SiteID: any HypervisorWatcher]],
    logger: Logger
  ) {
    self.settings = settings
    self.key = key
    self.identity = identity
    self.watchers = watchers
    self.logger = logger
    startedAt = ControllerCore.now
    book = PathBook(settings: settings)
    encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    for machine in settings.machines {
      let places = machine.places.map { MachinePlace(site: $0.site, agent: $0.agent) }
      // An earlier controller counted on from the second of its own start, one for each migration.
      trackers[machine.name] = MachineTracker(machine: machine.name, places: places, lastEpoch: UInt64(max(0, WallClock.seconds)))
    }
  }

  static var now: Instant { Instant(nanoseconds: Int64(NIODeadline.now().uptimeNanoseconds)) }

  // MARK: Hypervisors

  func receive(_ notice: HypervisorNotice, about machine: MachineID) {
    trackers[machine]?.receive(notice, at: ControllerCore.now)
    settle(machine)
  }

  // MARK: Effects

  /// Does what a machine's handover wants done, until it wants nothing more.
  func settle(_ machine: MachineID) {
    while let effect = trackers[machine]?.nextEffect() { carry(out: effect, of: machine) }
    if trackers[machine]?.isInHandover == false { checkHome(of: machine, at: ControllerCore.now) }
    tell()
    rearm()
  }

  private func carry(out effect: HandoverEffect, of machine: MachineID) {
    let now = ControllerCore.now
    switch effect {
    case .choosePath(let client):
      if let path = path(of: client, machine: machine, at: now) { trackers[machine]?.choose(path, for: client, at: now) }
    case .order(let order, let audience):
      for node in recipients(audience, of: machine) {
        dropWaiting(order, for: node)
        send(order, to: node)
      }
    case .go(let token, let migration, let node): sendPaced(.go(migration: migration, token: sign(token)), to: node, of: machine)
    case .goThroughAgent(let token, let migration):
      for node in nodes.agents(of: machine) { send(.go(migration: migration, token: sign(token)), to: node) }
    case .ask(let question, let site): watchers[machine]?[site]?.ask(question)
    case .line(let actor, let event): note(event, actor: actor)
    case .finished(let outcome):  // the handover says so itself, in a line
      // Its clients have been told, or given up; they are not told again.
      if outcome.result == .completed { homes[machine] = trackers[machine]?.current?.destinationSite }
    }
  }

  func sign(_ token: GoToken) -> GoToken {
    var token = token
    token.expires = WallClock.seconds + ControllerCore.goLifetimeSeconds
    // Nodes with certificates believe the signature, the others the MAC.
    if let key { token = key.sign(token) }
    guard let identity else { return token }
    do throws(CertificateError) {
      return try identity.current.sign(token)
    } catch {
      logger.error("GO leaves without a signature, and nodes with certificates will refuse it: \(error)")
      return token
    }
  }

  private func recipients(_ audience: OrderAudience, of machine: MachineID) -> [NodeID] {
    switch audience {
    case .agent: nodes.agents(of: machine)
    case .client(let node), .accelerator(let node): [node]
    }
  }

  func send(_ order: NodeOrder, to node: NodeID) {
    do {
      nodes.send(EventStream.event(try encoder.encode(order)), to: node, at: ControllerCore.now)
    } catch {
      // Only a number without a text in JSON (infinity) can do this; the order's figures were checked when they came in.
      logger.error("an order for \(node) has no JSON: \(error)")
    }
  }

  // MARK: Paths

  private func path(of client: NodeID, machine: MachineID, at now: Instant) -> ClientPath? {
    guard let destination = trackers[machine]?.current?.destinationSite else { return nil }
    guard let site = nodes[client]?.description.site else {
      return ClientPath(
        choice: .direct, reason: "direct: \(client) has not said at which site it stands (--site), so its path is not known")
    }
    let path = PathID(from: site, to: destination)
    var way = book.clientPath(decide(path, at: now), on: path)
    way.fill = fill(for: way.choice, of: machine, at: now)
    return way
  }

  /// Whose cache goes ahead: from the accelerator beside the machine to the one beside its future place, where a client's path leads through that.
  private func fill(for choice: PathChoice, of machine: MachineID, at now: Instant) -> CacheFill? {
    guard case .accelerated(_, let accelerators) = choice, let far = accelerators.last, let source = trackers[machine]?.current?.sourceSite,
      let near = nodes.accelerator(at: source, at: now)?.node, !accelerators.contains(near)
    else { return nil }
    return CacheFill(accelerator: near, peer: far)
  }

  @discardableResult
  func decide(_ path: PathID, at now: Instant) -> PlacementDecision {
    let before = book.decisions[path]
    let decision = book.decide(
      path, near: nodes.accelerator(at: path.from, at: now), far: nodes.accelerator(at: path.to, at: now), at: now)
    // An accelerator that has fallen silent may still carry its sessions; those that it has dropped help themselves.
    if let before, before.route != decision.route, !(decision.isDirect && decision.isCalledFor) { reroute(path, at: now) }
    return decision
  }

  // MARK: The timeline

  func note(_ event: String, actor: String = ControllerCore.name) {
    untold.append(timeline.append(actor: actor, event: event, at: WallClock.microseconds))
  }

  /// Logs what is new and sends it to those who follow.
  func tell() {
    guard !untold.isEmpty else { return }
    for entry in untold {
      logger.info(entry.actor == ControllerCore.name ? "\(entry.event)" : "\(entry.actor): \(entry.event)")
      guard !followers.isEmpty, let json = try? encoder.encode(entry) else { continue }
      let event = EventStream.event(json)
      followers.removeAll { !$0.send(event) }
    }
    untold = []
  }

  /// Sends what is later than `moment`, and then everything as it comes. False if there are too many already.
  func follow(_ stream: EventStream, since moment: Int64?) -> Bool {
    guard followers.count < ControllerCore.maximumFollowers else { return false }
    stream.send(EventStream.keepAlive)
    if let moment {
      // The newest, as many as wait in one stream beside what comes meanwhile.
      for entry in timeline.entries(since: moment).suffix(EventStream.maximumWaiting / 2) {
        if let json = try? encoder.encode(entry) { stream.send(EventStream.event(json)) }
      }
    }
    followers.append(stream)
    return true
  }

  func unfollow(_ stream: EventStream) { followers.removeAll { $0 === stream } }

  // MARK: Time

  /// Sets the alarm to the earliest deadline; one that rings too early does no harm.
  private func rearm() {
    guard let deadline = trackers.values.compactMap(\.deadline).min() else { return }
    if let alarm, alarm.at <= deadline { return }
    alarm?.task.cancel()
    let wait = max(deadline - ControllerCore.now, .zero)
    alarm = (
      deadline,
      Task {
        do { try await Task.sleep(for: .nanoseconds(wait.nanoseconds)) } catch { return }
        ring()
      }
    )
  }

  private func ring() {
    alarm = nil
    let now = ControllerCore.now
    for machine in trackers.keys.sorted() where trackers[machine]?.deadline.map({ $0 <= now }) == true {
      trackers[machine]?.handleDeadline(at: now)
      settle(machine)
    }
    rearm()
  }

  /// Until the task is cancelled: keep-alives, and what follows from absences.
  func keepAlive() async {
    while !Task.isCancelled {
      do { try await Task.sleep(for: .nanoseconds(ControllerCore.keepAliveInterval.nanoseconds)) } catch { break }
      for description in nodes.tick(at: ControllerCore.now) {
        note("\(description.node) has been away for \(Int(NodeRegistry.absence.seconds)) s")
        if description.role == .client { for machine in description.machines { trackers[machine]?.leave(description.node) } }
      }
      followers.removeAll { !$0.send(EventStream.keepAlive) }
      spreadTargets()
      spreadMap()
      sendHome()
      tell()
    }
    stop()
  }

  private func stop() {
    alarm?.task.cancel()
    alarm = nil
    nodes.closeAll()
    for follower in followers { follower.close() }
    followers = []
  }
}
