import Vocabulary

/// What the two hypervisors say, and what follows from it. The rules are those of QEMU's order of events: PREPARE on the source's `setup` or `active`, FREEZE on
/// its STOP, GO on the destination's RESUME, FENCE when the source is `postmigrate` or gone, ROLL BACK when it failed or cancelled and runs.
extension HandoverMachine {
  package mutating func receive(_ event: HypervisorEvent, from side: Side, stamp: Int64? = nil, at now: Instant) {
    guard !isOver else { return }
    switch side {
    case .source: receiveFromSource(event, stamp: stamp, at: now)
    case .destination: receiveFromDestination(event, stamp: stamp, at: now)
    }
    considerGo(at: now)
    considerEnd(at: now)
  }

  // MARK: The source

  private mutating func receiveFromSource(_ event: HypervisorEvent, stamp: Int64?, at now: Instant) {
    switch event {
    case .connected:
      source.isConnected = true
      source.isGone = false
      source.contradicts = false
      source.guest = nil  // whatever it was, it has had time to change
      ask(.guest, .source)
      ask(.migration, .source)
    case .lost:
      source.isConnected = false
      if source.guest?.mayRun != false { source.guest = nil }
    case .gone(let reason):
      source.isConnected = false
      source.isGone = true
      sourceIsGone(reason, at: now)
    case .stopped:
      source.stopStamp = stamp
      learn(.halted("stopped"), at: now)
    case .resumed: learn(.running, at: now)
    case .guest(let guest): learn(guest, at: now)
    case .migration(let phase): follow(phase, at: now)
    case .figures(let phase, let figures):
      keep(figures, phase: phase)
      if let phase { follow(phase, at: now) } else { sourceKnowsOfNone(at: now) }
    case .unanswered(.guest, _): sourceDidNotSay(at: now)
    case .unanswered(.migration, _): clear(.figures)
    }
  }

  private mutating func learn(_ guest: GuestState, at now: Instant) {
    let wasAskedForGo = source.isAskedForGo
    source.guest = guest
    source.isAskedForGo = false
    source.wouldNotSay = false
    if !guest.mayRun { source.contradicts = false }
    clear(.sourceAnswer)
    switch state {
    case .copying, .frozen: learnBeforeGo(guest, wasAskedForGo: wasAskedForGo, at: now)
    case .moving(var moving):
      if guest == .departed {
        moving.sourceIsOutOfTheWay = true
      } else if guest == .running, moving.conflict == nil {
        moving.conflict = "the guest runs at \(sourceSite) and at \(destinationSite): stop one of them"
        say("a person must look: \(moving.conflict ?? "")")
      }
      state = .moving(moving)
      if !moving.sourceIsOutOfTheWay, timers[Timer.pollSource.rawValue] == nil { poll(.source, at: now) }
    case .returning(let returning):
      if guest == .running {
        rollBack(returning.reason + (figures.errorDescription.map { ": \($0)" } ?? ""), at: now)
      } else {
        poll(.source, at: now)
      }
    case .over: break
    }
  }

  private mutating func learnBeforeGo(_ guest: GuestState, wasAskedForGo: Bool, at now: Instant) {
    guard guest.mayRun else {
      if case .copying = state { freeze() }
      return
    }
    guard !source.hasCompleted else {
      return giveUp("the guest was started again at \(sourceSite) after its migration had completed", at: now)
    }
    if case .frozen = state {
      state = .copying  // stopped and continued by somebody while the memory was copied
      say("the guest runs at \(sourceSite) again")
    }
    if wasAskedForGo {
      source.contradicts = true
      say("GO withheld: the guest runs at \(destinationSite), but \(sourceSite) says that it runs there (\(guest.text))")
      poll(.source, at: now)
    }
  }

  private mutating func freeze() {
    state = .frozen
    say("FREEZE: the guest is stopped at \(sourceSite)")
    stopFilling()
    for client in clients.keys.sorted() {
      effects.append(.order(.freeze(migration: migration, machine: machine), to: .client(client)))
    }
  }

  /// `phase` is the source's, from an event or an answer. Phases that we do not know are "in progress", which means: nothing to do.
  private mutating func follow(_ phase: MigrationPhase, at now: Instant) {
    switch phase {
    case .completed:
      guard !source.hasCompleted else { return }
      source.hasCompleted = true
      // The guest's state and the figures; both are asked here, since only the end has final ones.
      ask(.guest, .source)
      ask(.migration, .source)
      if !hasGone { set(.resume, limits.resumeLimit, at: now) }
    case .failed: giveUp("the migration failed", at: now)
    case .cancelled: giveUp("the migration was cancelled", at: now)
    case .setup, .active, .preSwitchover, .device, .postcopyActive, .postcopyPaused, .cancelling, .other: break
    }
  }

  /// The source has given up. Before GO that leads back, once the guest is known to run there; after GO it cannot.
  private mutating func giveUp(_ reason: String, at now: Instant) {
    switch state {
    case .copying, .frozen:
      state = .returning(Returning(reason: reason))
      say("\(reason); asking \(sourceSite) whether the guest runs there")
      clear(.resume)
      ask(.migration, .source)  // for the reason, which should be known when the guest's state is
      ask(.guest, .source)
      set(.giveBack, limits.returnLimit, at: now)
      pollPause[.source] = nil
    case .moving(var moving):
      guard moving.conflict == nil else { return }
      moving.conflict = "\(sourceSite) reports that \(reason), but the guest was resumed at \(destinationSite)"
      say("a person must look: \(moving.conflict ?? "")")
      state = .moving(moving)
      ask(.guest, .source)
    case .returning, .over: break
    }
  }

  /// After a reconnect: this hypervisor has no migration at all, so it is not the process that began one.
  private mutating func sourceKnowsOfNone(at now: Instant) {
    giveUp("the hypervisor at \(sourceSite) was started anew", at: now)
  }

  private mutating func sourceIsGone(_ reason: String, at now: Instant) {
    source.guest = nil
    source.contradicts = false
    source.isAskedForGo = false
    clear(.sourceAnswer)
    switch state {
    case .copying, .frozen:
      say("the hypervisor at \(sourceSite) is gone (\(reason)); only a RESUME at \(destinationSite) can show that the guest lives")
      if timers[Timer.resume.rawValue] == nil { set(.resume, limits.resumeLimit, at: now) }
    case .moving(var moving):
      moving.sourceIsOutOfTheWay = true
      state = .moving(moving)
    case .returning(let returning):
      finish(
        .unresolved, "\(returning.reason), and then the hypervisor at \(sourceSite) went away (\(reason)); a person must look", at: now)
    case .over: break
    }
  }

  private mutating func sourceDidNotSay(at now: Instant) {
    if source.isAskedForGo {
      source.isAskedForGo = false
      source.wouldNotSay = !source.contradicts
      clear(.sourceAnswer)
      if source.contradicts, source.isConnected { poll(.source, at: now) }
    }
    switch state {
    case .returning, .moving:
      if source.isConnected, timers[Timer.pollSource.rawValue] == nil { poll(.source, at: now) }
    case .copying, .frozen, .over: break
    }
  }

  // MARK: The destination

  private mutating func receiveFromDestination(_ event: HypervisorEvent, stamp: Int64?, at now: Instant) {
    switch event {
    case .connected:
      destination.isConnected = true
      ask(.guest, .destination)
      ask(.migration, .destination)
    case .lost:
      destination.isConnected = false
      destination.isRunning = false
    case .gone(let reason):
      destination.isConnected = false
      if hasGone {
        say("a person must look: the hypervisor at \(destinationSite) is gone (\(reason)) after GO")
      } else {
        // Whatever arrives next at that place is another process, and owes us its own proof.
        destination = Destination(isConnected: false)
        say("the hypervisor at \(destinationSite) is gone (\(reason)); waiting for \(sourceSite) to say how the migration ended")
      }
    case .migration(let phase): followDestination(phase, at: now)
    case .resumed:
      destination.resumeStamp = stamp
      noteArrival(at: now)
      ask(.guest, .destination)
      if !destination.hasReceived { ask(.migration, .destination) }
    case .stopped: destination.isRunning = false
    case .guest(let guest):
      destination.isRunning = guest == .running
      if guest == .incoming { destination.wasIncoming = true }
      if destination.resumedAt != nil, !hasGone, guest != .running { poll(.destination, at: now) }
    case .figures(let phase, _):
      guard let phase else { return }
      // An answer stands for the event that was missed: `completed` cannot be reached without `active`.
      if phase.isTransferring || phase == .completed { destination.claimsArrival = true }
      if destination.isRunning, phase == .completed || phase == .postcopyActive { noteArrival(at: now) }
    case .unanswered(.guest, _):
      if destination.resumedAt != nil, !hasGone, destination.isConnected { poll(.destination, at: now) }
    case .unanswered(.migration, _): break
    }
  }

  private mutating func followDestination(_ phase: MigrationPhase, at now: Instant) {
    if phase.isTransferring { destination.hasReceived = true }
    switch phase {
    case .setup where !hasGone:
      // A process that waits for its guest: what an earlier one said does not count for it.
      destination = Destination(wasIncoming: true)
    case .failed:
      if hasGone { say("a person must look: the migration failed at \(destinationSite) after GO") }
    default: break
    }
  }

  private mutating func noteArrival(at now: Instant) {
    if destination.resumedAt == nil { destination.resumedAt = now }
  }

  // MARK: GO

  /// `active` was seen in this job; or the hypervisor, when asked, knows of a migration, and it is this one's: it was seen waiting for a guest, or the source
  /// says that its guest has left.
  private var hasDestinationReceived: Bool {
    destination.hasReceived || destination.claimsArrival && (destination.wasIncoming || source.hasCompleted)
  }

  /// GO, if and only if the destination received this job's guest, resumed it, says when asked that it runs, and the source does not.
  mutating func considerGo(at now: Instant) {
    guard hasDestinationReceived, destination.resumedAt != nil, destination.isRunning, destination.isConnected else { return }
    switch state {
    case .copying, .frozen: break
    case .returning(let returning):
      let conflict = "\(returning.reason), but the guest runs at \(destinationSite)"
      return finish(.unresolved, "\(conflict); a person must look before it is started at \(sourceSite)", at: now)
    case .moving, .over: return
    }
    guard source.isConnected || !source.contradicts else { return }
    if source.isConnected, source.guest?.mayRun ?? true, !source.wouldNotSay {
      // Two connections have no common order, so the source's STOP may still be on its way. It is asked, and says it itself.
      guard !source.isAskedForGo, timers[Timer.pollSource.rawValue] == nil else { return }
      source.isAskedForGo = true
      ask(.guest, .source)
      set(.sourceAnswer, limits.sourceAnswer, at: now)
      return
    }
    go(at: now)
  }

  private mutating func go(at now: Instant) {
    state = .moving(Moving(sourceIsOutOfTheWay: source.isGone || source.guest == .departed))
    goAt = now
    for timer in [Timer.resume, .sourceAnswer, .pollDestination, .pollSource] { clear(timer) }
    pollPause[.source] = nil
    say("GO: the guest runs at \(destinationSite), epoch \(epoch), to \(clients.count == 1 ? "1 client" : "\(clients.count) clients")")
    stopFilling()
    tellExpecting(.arrived(agent: destinationAgent))  // first: a parked flight there is nearer than any client
    for client in clients.keys.sorted() { permit(client) }
    permitThroughAgent()
    set(.go, limits.goInterval, at: now)
    set(.move, limits.moveLimit, at: now)
    set(.fence, limits.fenceLimit, at: now)
    if source.isConnected, source.guest != .departed { ask(.guest, .source) }
  }

  mutating func permit(_ client: NodeID) {
    let token = GoToken(
      machine: machine, epoch: epoch, agent: destinationAgent, path: clients[client]?.path?.choice ?? .direct, expires: 0)
    effects.append(.go(token, migration: migration, to: client))
  }

  mutating func permitThroughAgent() {
    guard clients.values.contains(where: { $0.movedAt == nil }) else { return }
    effects.append(
      .goThroughAgent(
        GoToken(machine: machine, epoch: epoch, agent: destinationAgent, path: .direct, expires: 0), migration: migration))
  }

  // MARK: The end

  /// Another migration of this machine has begun: whatever was not seen of this one has happened.
  package mutating func supersede(at now: Instant) {
    switch state {
    case .copying, .frozen: rollBack("another migration began, so this one had ended unseen", at: now)
    case .returning(let returning): rollBack(returning.reason, at: now)
    case .moving: finish(.completed, "another migration began before its end was seen", at: now)
    case .over: break
    }
  }

  private mutating func rollBack(_ reason: String, at now: Instant) {
    say("ROLL BACK: \(reason); the guest runs at \(sourceSite)")
    let order = NodeOrder.rollBack(migration: migration, machine: machine, agent: destinationAgent)
    effects.append(.order(order, to: .agent))
    for client in clients.keys.sorted() { effects.append(.order(order, to: .client(client))) }
    finish(.rolledBack, reason, at: now)
  }

  /// After GO: FENCE once the source is out of the way and every client has moved or been given up; then the end, with the figures if they come in time.
  mutating func considerEnd(at now: Instant) {
    guard case .moving(var moving) = state else { return }
    let everyoneMoved = clients.values.allSatisfy { $0.movedAt != nil }
    if everyoneMoved { for timer in [Timer.go, .move, .warm] { clear(timer) } }
    guard moving.sourceIsOutOfTheWay, timers[Timer.move.rawValue] == nil else { return }
    if !moving.hasFenced {
      moving.hasFenced = true
      state = .moving(moving)
      clear(.pollSource)
      clear(.fence)
      say("FENCE: \(sourceSite) is out of the way; only \(destinationAgent) is left")
      effects.append(.order(.fence(migration: migration, machine: machine, agent: destinationAgent), to: .agent))
      if !hasFigures, source.isConnected {
        ask(.migration, .source)
        set(.figures, limits.figuresLimit, at: now)
      }
    }
    guard hasFigures || timers[Timer.figures.rawValue] == nil else { return }
    let left = clients.filter { $0.value.movedAt == nil }.keys.sorted()
    let clientsText =
      left.isEmpty ? "every client has moved" : "clients that did not report a move: \(left.map(\.text).joined(separator: ", "))"
    if let conflict = moving.conflict {
      finish(.unresolved, "\(conflict); \(clientsText)", at: now)
    } else {
      finish(.completed, clientsText, at: now)
    }
  }

  private mutating func keep(_ figures: MigrationFigures, phase: MigrationPhase?) {
    self.figures = figures
    if phase == .completed { hasFigures = true }
  }
}
