import Vocabulary

/// One migration of one machine, from the first sign of it to FENCE or ROLL BACK.
///
/// What hypervisors and nodes say goes in, orders and questions come out. Two rules stand above the others and shape the states:
/// GO never goes out while the source may run, and one handover never sends both GO and ROLL BACK. `moving` is entered by GO and `returning` by the
/// source's failure; neither leads to the other.
package struct HandoverMachine: Sendable {
  package enum Side: Sendable, Hashable { case source, destination }

  enum State: Sendable {
    /// The guest runs at the source while its memory is copied.
    case copying
    /// The source has stopped the guest.
    case frozen
    /// GO is out.
    case moving(Moving)
    /// The source has given up: it is asked until it runs, then ROLL BACK.
    case returning(Returning)
    case over(HandoverOutcome)
  }

  struct Moving: Sendable {
    var sourceIsOutOfTheWay = false
    /// The destination runs, and the source says that it does too.
    var conflict: String?
    var hasFenced = false
  }

  struct Returning: Sendable {
    var reason: String
  }

  /// What is known of the source in this job.
  struct Source: Sendable {
    var isConnected = true
    /// The last word on the guest; nil when nothing is certain.
    var guest: GuestState?
    var isGone = false
    var hasCompleted = false
    var stopStamp: Int64?
    /// GO waits for the source's word on whether it runs.
    var isAskedForGo = false
    var wouldNotSay = false
    /// It said that its guest runs when the destination's ran: from then on only its own word, or its end, lets GO out, not its silence.
    var contradicts = false
  }

  /// What is known of the destination in this job.
  struct Destination: Sendable {
    var isConnected = true
    /// `active` or `postcopy-active` came as an event.
    var hasReceived = false
    /// The answer to a question says that a guest has arrived or is arriving.
    var claimsArrival = false
    /// It was seen waiting for a guest (`inmigrate`, or `setup`).
    var wasIncoming = false
    /// RESUME was seen, or the hypervisor said, when asked, that the guest has arrived.
    var resumedAt: Instant?
    var resumeStamp: Int64?
    /// It was asked after RESUME, and the guest runs.
    var isRunning = false
  }

  struct Client: Sendable {
    var path: ClientPath?
    /// What it was told last.
    var prepared: PathChoice?
    var movedAt: Instant?
    var goToConfirmed: Double?
    var movedStamp: Int64?
    var trouble: String?
  }

  /// In the order in which those that are due together are handled: the limit of the moves before another GO.
  enum Timer: Int, CaseIterable, Sendable {
    case pollSource, pollDestination, sourceAnswer, move, go, warm, resume, giveBack, figures, fence
  }

  package let migration: MigrationID
  package let machine: MachineID
  package let sourceSite: SiteID
  package let destinationSite: SiteID
  /// Where the agent answers at the source and at the destination.
  package let sourceAgent: Endpoint
  package let destinationAgent: Endpoint
  package let epoch: UInt64
  let limits: HandoverLimits
  let startedAt: Instant
  var state = State.copying
  var source = Source()
  var destination = Destination()
  var clients: [NodeID: Client] = [:]
  /// Accelerators beside the destination that hold flows for the machine.
  var expecting: Set<NodeID> = []
  /// Accelerators whose caches go ahead of the machine.
  var filling: Set<CacheFill> = []
  var figures = MigrationFigures()
  var hasFigures = false
  var goAt: Instant?
  var endedAt: Instant?
  var timers = [Instant?](repeating: nil, count: Timer.allCases.count)
  var pollPause: [Side: TimeSpan] = [:]
  var effects: [HandoverEffect] = []

  package init(
    migration: MigrationID, machine: MachineID, from: MachinePlace, to: MachinePlace,
    epoch: UInt64, clients: [NodeID], sourceGuest: GuestState? = nil, isDestinationConnected: Bool = true,
    limits: HandoverLimits = HandoverLimits(), at now: Instant
  ) {
    self.migration = migration
    self.machine = machine
    sourceSite = from.site
    sourceAgent = from.agent
    destinationSite = to.site
    destinationAgent = to.agent
    self.epoch = epoch
    self.limits = limits
    startedAt = now
    source.guest = sourceGuest
    destination.isConnected = isDestinationConnected
    for client in clients { self.clients[client] = Client() }
    say("PREPARE: \(machine) migrates from \(sourceSite) to \(destinationSite), where it will answer at \(destinationAgent)")
    effects.append(.order(.prepare(migration: migration, machine: machine, agent: destinationAgent, path: .direct), to: .agent))
    for client in self.clients.keys.sorted() { effects.append(.choosePath(client: client)) }
    set(.warm, limits.warmInterval, at: now)
  }

  // MARK: Ask it

  package var isOver: Bool {
    if case .over = state { return true }
    return false
  }

  package var hasGone: Bool { goAt != nil }

  package var outcome: HandoverOutcome? {
    if case .over(let outcome) = state { return outcome }
    return nil
  }

  package var deadline: Instant? { timers.compactMap { $0 }.min() }

  package mutating func nextEffect() -> HandoverEffect? { effects.isEmpty ? nil : effects.removeFirst() }

  package func report(at now: Instant) -> MigrationReport {
    let stateText: String
    var reason: String?
    switch state {
    case .copying: stateText = "copying"
    case .frozen: stateText = "frozen"
    case .moving(let moving):
      stateText = "moving"
      reason = moving.conflict
    case .returning(let returning):
      stateText = "returning"
      reason = returning.reason
    case .over(let outcome):
      stateText = outcome.result.rawValue
      reason = outcome.reason
    }
    let resumedAt = destination.resumedAt
    func sinceResume(_ moment: Instant?) -> Double? { moment.flatMap { moment in resumedAt.map { (moment - $0).milliseconds } } }
    let moved = clients.values.compactMap(\.movedAt)
    return MigrationReport(
      migration: migration, machine: machine, source: sourceSite, destination: destinationSite, epoch: epoch, state: stateText,
      reason: reason,
      clients: clients.sorted { $0.key < $1.key }.map { node, client in
        MigrationReport.Client(
          node: node, path: client.path?.choice, pathReason: client.path?.reason,
          resumeToMovedMilliseconds: sinceResume(client.movedAt), goToConfirmedMilliseconds: client.goToConfirmed,
          stampedResumeToMovedMilliseconds: milliseconds(from: destination.resumeStamp, to: client.movedStamp), trouble: client.trouble)
      },
      figures: figures, stopToResumeMilliseconds: milliseconds(from: source.stopStamp, to: destination.resumeStamp),
      resumeToGoMilliseconds: sinceResume(goAt),
      goLatencyMilliseconds: moved.count == clients.count ? sinceResume(moved.max()) : nil,
      elapsedMilliseconds: ((endedAt ?? now) - startedAt).milliseconds)
  }

  private func milliseconds(from: Int64?, to: Int64?) -> Double? { from.flatMap { from in to.map { Double($0 - from) / 1e3 } } }

  // MARK: Helpers of all aspects

  mutating func say(_ event: String) { effects.append(.line(actor: "controller", event: event)) }

  mutating func ask(_ question: HypervisorQuestion, _ side: Side) {
    effects.append(.ask(question, of: side == .source ? sourceSite : destinationSite))
  }

  /// The accelerators that hold flows for the machine hear how it ended, once.
  mutating func tellExpecting(_ order: NodeOrder) {
    for accelerator in expecting.sorted() { effects.append(.order(order, to: .accelerator(accelerator))) }
    expecting = []
  }

  /// The machine is about to run there, or stays: what goes ahead of it stops.
  mutating func stopFilling() {
    for fill in filling.sorted(by: { ($0.accelerator, $0.peer) < ($1.accelerator, $1.peer) }) { order(fill, hold: .zero) }
    filling = []
  }

  mutating func order(_ fill: CacheFill, hold: TimeSpan) {
    let order = NodeOrder.fill(peer: fill.peer, service: sourceAgent.address, holdMilliseconds: hold.nanoseconds / 1_000_000)
    effects.append(.order(order, to: .accelerator(fill.accelerator)))
  }

  mutating func set(_ timer: Timer, _ span: TimeSpan, at now: Instant) { timers[timer.rawValue] = now + span }
  mutating func clear(_ timer: Timer) { timers[timer.rawValue] = nil }

  /// Asks again later, each time after twice the pause.
  mutating func poll(_ side: Side, at now: Instant) {
    let pause = pollPause[side] ?? limits.firstPoll
    pollPause[side] = min(pause * 2, limits.longestPoll)
    set(side == .source ? .pollSource : .pollDestination, pause, at: now)
  }

  mutating func finish(_ result: HandoverOutcome.Result, _ reason: String, at now: Instant) {
    precondition(!isOver, "a handover ends once")
    let outcome = HandoverOutcome(result: result, reason: reason)
    if goAt == nil { tellExpecting(.withdrawn(agent: destinationAgent)) }
    stopFilling()
    state = .over(outcome)
    endedAt = now
    timers = timers.map { _ in nil }
    say("handover of \(machine) \(result == .rolledBack ? "rolled back" : result.rawValue): \(reason)")
    effects.append(.finished(outcome))
  }
}
