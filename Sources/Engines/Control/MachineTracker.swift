import Vocabulary

/// A place where a machine can run.
package struct MachinePlace: Sendable, Hashable {
  package var site: SiteID
  /// Where its agent answers when the machine runs there.
  package var agent: Endpoint

  package init(site: SiteID, agent: Endpoint) {
    self.site = site
    self.agent = agent
  }
}

/// One machine over all its migrations: recognises that one begins, and which way, from what the hypervisors say; keeps the epoch; and hands everything else to
/// the handover of the day.
///
/// Both ends of a migration say `setup` and `active`. Which end is which follows from the guest's state: a process that is `inmigrate` waits for a guest, so
/// its migration events are about an arrival; from any other one they are about a departure.
package struct MachineTracker: Sendable {
  /// Ended handovers that are remembered for people to look at.
  package static let maximumHistory = 64
  /// Notices of one hypervisor that wait until it is known what they are about. One migration makes about ten.
  static let maximumHeld = 64
  /// How long an arrival that has completed waits for its departure to be heard of: two connections to two hosts differ by less.
  static let arrivalMemory = TimeSpan.seconds(5 as Int64)

  private struct SiteView: Sendable {
    var isConnected = false
    /// Its process has ended.
    var isGone = false
    /// The last word on the guest since the connection stands.
    var guest: GuestState?
    /// From `inmigrate` until the arrival has completed or failed.
    var isArriving = false
    /// Came before the guest's state was known.
    var unjudged: [HypervisorNotice] = []
    /// What an arriving process said before its handover began: the destination may be heard before the source.
    var arrival: [HypervisorNotice] = []
    var arrivalHeldAt = Instant.zero
  }

  package let machine: MachineID
  package let places: [MachinePlace]
  private let limits: HandoverLimits
  private var views: [SiteID: SiteView] = [:]
  private var clients: Set<NodeID> = []
  private var lastEpoch: UInt64
  /// A departure whose destination is not known yet, and what its source has said since.
  private var departing: (site: SiteID, held: [HypervisorNotice])?
  package private(set) var current: HandoverMachine?
  package private(set) var history: [MigrationReport] = []
  private var effects: [HandoverEffect] = []

  /// `lastEpoch` must not be below any epoch that this machine's clients have seen; the seconds since 1970 will do for a controller that starts anew, since no
  /// machine migrates once a second.
  package init(machine: MachineID, places: [MachinePlace], lastEpoch: UInt64, limits: HandoverLimits = HandoverLimits()) {
    self.machine = machine
    self.places = places
    self.lastEpoch = lastEpoch
    self.limits = limits
    for place in places { views[place.site] = SiteView() }
  }

  // MARK: Ask it

  /// Where the machine runs, as far as its hypervisors say so.
  package var home: SiteID? {
    let running = places.map(\.site).filter { views[$0]?.guest == .running && views[$0]?.isArriving == false }
    if let current, current.hasGone {
      // Only its own hypervisor's word of a later life elsewhere stands against a GO.
      guard current.isOver, running.count == 1 else { return current.destinationSite }
    }
    return running.count == 1 ? running.first : nil
  }

  /// Where the machine runs without any doubt: its hypervisor there says so, and every other one says that it does not run there, or has ended.
  package var certainHome: SiteID? {
    guard !isInHandover, let home, views[home]?.guest == .running else { return nil }
    let isClear = places.allSatisfy { place in
      guard place.site != home, let view = views[place.site] else { return true }
      return view.isGone || view.guest.map { !$0.mayRun } ?? false
    }
    return isClear ? home : nil
  }

  /// A fresh epoch for a GO without a migration: another path, or a machine that was found elsewhere. It keeps step with the seconds since 1970, so that a controller
  /// that starts anew is never behind; so at most one a second.
  package mutating func beginEpoch(atLeast seconds: UInt64) -> UInt64 {
    lastEpoch = max(lastEpoch + 1, seconds)
    return lastEpoch
  }

  package var isInHandover: Bool { current.map { !$0.isOver } ?? false }

  /// Where its agent answers and the epoch that holds there, while no handover is going on; nil also while nobody knows where the machine runs.
  package var standing: (place: MachinePlace, epoch: UInt64)? {
    guard !isInHandover, let home, let place = places.first(where: { $0.site == home }) else { return nil }
    return (place, lastEpoch)
  }

  /// What its hypervisor at `site` says of the guest, in QEMU's words; nil without a connection.
  package func guestText(at site: SiteID) -> String? { views[site]?.isConnected == true ? views[site]?.guest?.text ?? "unknown" : nil }

  package var deadline: Instant? { current?.deadline }

  package mutating func nextEffect() -> HandoverEffect? { effects.isEmpty ? nil : effects.removeFirst() }

  package func reports(at now: Instant) -> [MigrationReport] {
    history + (current.map { $0.isOver ? [] : [$0.report(at: now)] } ?? [])
  }

  // MARK: Tell it

  package mutating func receive(_ notice: HypervisorNotice, at now: Instant) {
    guard views[notice.site] != nil else { return }
    note(notice)
    judge(notice, at: now)
    beginWaitingDeparture(at: now)
    drain(at: now)
  }

  package mutating func receive(_ report: NodeReport, from node: NodeID, stamp: Int64, at now: Instant) {
    current?.receive(report, from: node, stamp: stamp, at: now)
    drain(at: now)
  }

  package mutating func choose(_ path: ClientPath, for client: NodeID, at now: Instant) {
    current?.choose(path, for: client, at: now)
    drain(at: now)
  }

  package mutating func join(_ client: NodeID, at now: Instant) {
    clients.insert(client)
    current?.join(client, at: now)
    drain(at: now)
  }

  /// The client has been away for long: the next handover does not wait for it.
  package mutating func leave(_ client: NodeID) { clients.remove(client) }

  package mutating func joinAgent(at now: Instant) {
    current?.joinAgent()
    drain(at: now)
  }

  package mutating func handleDeadline(at now: Instant) {
    current?.handleDeadline(at: now)
    drain(at: now)
  }

  // MARK: Whose events these are

  /// Every event goes onto the timeline; answers do not, since we ask often.
  private mutating func note(_ notice: HypervisorNotice) {
    switch notice.event {
    case .guest, .figures, .unanswered: return
    case .connected, .lost, .gone, .stopped, .resumed, .migration: break
    }
    var text = notice.event.description
    if let stamp = notice.stampMicroseconds { text += " (stamped \(seconds(stamp)))" }
    effects.append(.line(actor: "hypervisor \(notice.site)", event: text))
  }

  private func seconds(_ microseconds: Int64) -> String {
    let (whole, rest) = microseconds.quotientAndRemainder(dividingBy: 1_000_000)
    let digits = String(rest)
    return "\(whole).\(String(repeating: "0", count: max(0, 6 - digits.count)))\(digits)"
  }

  /// Holds what cannot be understood before the guest's state is known, and sends on the rest.
  private mutating func judge(_ notice: HypervisorNotice, at now: Instant) {
    let site = notice.site
    switch notice.event {
    case .connected:
      views[site] = SiteView(isConnected: true)
      if role(of: site) == nil {
        effects.append(.ask(.guest, of: site))
        effects.append(.ask(.migration, of: site))
      }
    case .lost: views[site] = SiteView()
    case .gone: views[site] = SiteView(isGone: true)
    case .guest(let guest) where views[site]?.guest == nil:
      let held = views[site]?.unjudged ?? []
      views[site]?.unjudged = []
      // One that says "running" and has resumed since we listen was waiting for its guest before.
      let hasArrived = guest == .running && held.contains { $0.event == .resumed } && !held.contains { $0.event == .stopped }
      views[site]?.isArriving = guest == .incoming || hasArrived
      views[site]?.guest = hasArrived ? .incoming : guest
      for earlier in held { follow(earlier, at: now) }
      views[site]?.guest = guest
    case .guest(let guest):
      views[site]?.guest = guest
      if guest == .incoming { views[site]?.isArriving = true }
    case .stopped, .resumed, .migration, .figures, .unanswered:
      if views[site]?.guest == nil, role(of: site) == nil {
        if (views[site]?.unjudged.count ?? 0) < MachineTracker.maximumHeld { views[site]?.unjudged.append(notice) }
        return
      }
    }
    follow(notice, at: now)
  }

  private func role(of site: SiteID) -> HandoverMachine.Side? {
    guard let current, !current.isOver else { return nil }
    if site == current.sourceSite { return .source }
    return site == current.destinationSite ? .destination : nil
  }

  private mutating func follow(_ notice: HypervisorNotice, at now: Instant) {
    let site = notice.site
    let isArriving = views[site]?.isArriving == true
    switch notice.event {
    case .stopped: views[site]?.guest = .halted("stopped")
    case .resumed: views[site]?.guest = .running
    case .migration(.completed), .migration(.failed): views[site]?.isArriving = false
    default: break
    }
    if isDeparture(notice, isArriving: isArriving) {
      current?.supersede(at: now)
      drain(at: now)
      departing = (site, [notice])
    } else if let role = role(of: site) {
      current?.receive(notice.event, from: role, stamp: notice.stampMicroseconds, at: now)
      drain(at: now)
    } else if departing?.site == site {
      holdDeparture(notice)
    }
    if isArriving, role(of: site) == nil, (views[site]?.arrival.count ?? 0) < MachineTracker.maximumHeld {
      views[site]?.arrival.append(notice)
      views[site]?.arrivalHeldAt = now
    }
  }

  /// While its destination is not known, a departure only collects; it may also end, or begin again.
  private mutating func holdDeparture(_ notice: HypervisorNotice) {
    switch notice.event {
    case .migration(.setup): departing?.held = [notice]
    case .migration(.failed), .migration(.cancelled), .gone: departing = nil
    default:
      if (departing?.held.count ?? 0) < MachineTracker.maximumHeld { departing?.held.append(notice) }
    }
  }

  /// Whether a guest is expected at this place, or has just come.
  private func isExpecting(_ site: SiteID, at now: Instant) -> Bool {
    guard let view = views[site] else { return false }
    return view.isArriving || !view.arrival.isEmpty && now - view.arrivalHeldAt <= MachineTracker.arrivalMemory
  }

  /// True for the first sign that the guest at this site is on its way out.
  private func isDeparture(_ notice: HypervisorNotice, isArriving: Bool) -> Bool {
    guard !isArriving, departing?.site != notice.site, let guest = views[notice.site]?.guest, guest != .incoming else { return false }
    switch notice.event {
    case .migration(.setup): return true
    // Later words begin a handover only where none is: the controller, or its connection, came late.
    case .migration(let phase), .figures(.some(let phase), _):
      guard role(of: notice.site) == nil, guest != .departed else { return false }
      // In post-copy the guest runs at the destination, behind which its memory arrives.
      if phase == .postcopyActive { return !guest.mayRun }
      return phase == .active || phase == .preSwitchover || phase == .device
    default: return false
    }
  }

  // MARK: Beginning

  /// Begins the handover once its destination is known: the only other place, or the one that waits for a guest.
  private mutating func beginWaitingDeparture(at now: Instant) {
    guard let departing, let source = places.first(where: { $0.site == departing.site }) else { return }
    let others = places.filter { $0.site != source.site }
    let expecting = others.filter { isExpecting($0.site, at: now) }
    guard let destination = others.count == 1 ? others.first : expecting.count == 1 ? expecting.first : nil else { return }
    self.departing = nil
    lastEpoch += 1
    current = HandoverMachine(
      migration: MigrationID("\(machine)-\(lastEpoch)"), machine: machine, from: source, to: destination, epoch: lastEpoch,
      clients: clients.sorted(), sourceGuest: views[source.site]?.guest,
      isDestinationConnected: views[destination.site]?.isConnected == true, limits: limits, at: now)
    drain(at: now)
    for notice in departing.held {
      current?.receive(notice.event, from: .source, stamp: notice.stampMicroseconds, at: now)
    }
    if isExpecting(destination.site, at: now) {
      current?.receive(.guest(.incoming), from: .destination, at: now)
      for notice in views[destination.site]?.arrival ?? [] {
        current?.receive(notice.event, from: .destination, stamp: notice.stampMicroseconds, at: now)
      }
    }
    for place in places { views[place.site]?.arrival = [] }
    drain(at: now)
  }

  private mutating func drain(at now: Instant) {
    while let effect = current?.nextEffect() {
      effects.append(effect)
      guard case .finished = effect, let report = current?.report(at: now) else { continue }
      history.append(report)
      if history.count > MachineTracker.maximumHistory { history.removeFirst() }
    }
  }
}
