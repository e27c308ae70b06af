import Paths
import Vocabulary

/// What nodes say, what the path decision is, and what time does.
extension HandoverMachine {
  // MARK: Paths

  /// The decision that `.choosePath` asked for. A client is told when it is the first one, or another one than before.
  package mutating func choose(_ path: ClientPath, for client: NodeID, at now: Instant) {
    guard !isOver, var entry = clients[client] else { return }
    let isNews = entry.path?.choice != path.choice
    if isNews { say("path of \(client): \(describe(path))") }
    switch state {
    case .copying, .frozen:
      entry.path = path
      if case .accelerated(_, let accelerators) = path.choice, let far = accelerators.last {
        expecting.insert(far)
        let hold = limits.warmHold.nanoseconds / 1_000_000
        effects.append(.order(.expect(agent: destinationAgent, holdMilliseconds: hold), to: .accelerator(far)))
      }
      if entry.prepared != path.choice {
        entry.prepared = path.choice
        effects.append(
          .order(.prepare(migration: migration, machine: machine, agent: destinationAgent, path: path.choice), to: .client(client)))
      }
    case .moving:
      // The GO is signed with its path; only what was never decided is decided now.
      if entry.path == nil { entry.path = path }
    case .returning, .over: return
    }
    if case .copying = state, let fill = path.fill {
      filling.insert(fill)
      order(fill, hold: limits.warmHold)
    }
    clients[client] = entry
    let hold = limits.warmHold.nanoseconds / 1_000_000
    for tunnel in path.warm {
      effects.append(
        .order(
          .warm(
            peer: tunnel.peer, rate: tunnel.rate, roundTripMilliseconds: tunnel.roundTripMilliseconds, holdMilliseconds: hold),
          to: .accelerator(tunnel.accelerator)))
    }
  }

  private func describe(_ path: ClientPath) -> String {
    switch path.choice {
    case .direct: path.reason
    case .accelerated(_, let accelerators): "through \(accelerators.map(\.text).joined(separator: " and ")): \(path.reason)"
    }
  }

  // MARK: Nodes

  /// A client has registered while the handover is under way (again, or for the first time).
  package mutating func join(_ client: NodeID, at now: Instant) {
    guard !isOver else { return }
    // A client that registers again may be another process, which knows of nothing.
    if clients[client] == nil { clients[client] = Client() } else { clients[client]?.prepared = nil }
    effects.append(.choosePath(client: client))
    switch state {
    case .frozen: effects.append(.order(.freeze(migration: migration, machine: machine), to: .client(client)))
    case .moving where clients[client]?.movedAt == nil: permit(client)
    case .copying, .moving, .returning, .over: break
    }
  }

  /// The agent has registered while the handover is under way.
  package mutating func joinAgent() {
    switch state {
    case .copying, .frozen:
      effects.append(.order(.prepare(migration: migration, machine: machine, agent: destinationAgent, path: .direct), to: .agent))
    case .moving(let moving) where moving.hasFenced:
      effects.append(.order(.fence(migration: migration, machine: machine, agent: destinationAgent), to: .agent))
    case .moving: permitThroughAgent()
    case .returning, .over: break
    }
  }

  /// A report of a node. `stamp` is the node's own wall clock, microseconds since 1970.
  package mutating func receive(_ report: NodeReport, from node: NodeID, stamp: Int64, at now: Instant) {
    guard !isOver else { return }
    switch report {
    case .moved(let machine, let epoch, let took):
      guard machine == self.machine, epoch == self.epoch, goAt != nil, clients[node] != nil, clients[node]?.movedAt == nil else { return }
      clients[node]?.movedAt = now
      clients[node]?.goToConfirmed = took
      clients[node]?.movedStamp = stamp
      if let resumedAt = destination.resumedAt {
        say("\(node) has moved, \(figure((now - resumedAt).milliseconds)) ms after RESUME")
      }
      considerEnd(at: now)
    case .stuck(let machine, let epoch, let reason):
      guard machine == self.machine, epoch == self.epoch else { return }
      clients[node]?.trouble = reason
    case .announced, .recovered, .measured, .unreachable, .event: break
    }
  }

  // MARK: Time

  package mutating func handleDeadline(at now: Instant) {
    for timer in Timer.allCases {
      guard !isOver, let due = timers[timer.rawValue], due <= now else { continue }
      timers[timer.rawValue] = nil
      handle(timer, at: now)
    }
  }

  private mutating func handle(_ timer: Timer, at now: Instant) {
    switch timer {
    case .pollSource:
      guard source.isConnected else { return }
      switch state {
      case .copying, .frozen: considerGo(at: now)  // which asks, if GO still waits for the answer
      case .moving, .returning: ask(.guest, .source)
      case .over: break
      }
    case .pollDestination:
      if destination.isConnected { ask(.guest, .destination) }
    case .sourceAnswer:
      // Treated as an answer that did not come; the destination's word stands.
      receive(.unanswered(.guest, reason: "no answer in \(figure(limits.sourceAnswer.milliseconds)) ms"), from: .source, at: now)
    case .go:
      for client in clients.keys.sorted() where clients[client]?.movedAt == nil { permit(client) }
      set(.go, limits.goInterval, at: now)
    case .move:
      clear(.go)
      clear(.warm)
      let left = clients.filter { $0.value.movedAt == nil }.keys.sorted()
      say("no word of a move within \(figure(limits.moveLimit.seconds)) s from \(left.map(\.text).joined(separator: ", "))")
      considerEnd(at: now)
    case .warm:
      for client in clients.keys.sorted() where clients[client]?.movedAt == nil { effects.append(.choosePath(client: client)) }
      set(.warm, limits.warmInterval, at: now)
    case .resume:
      say("a person must look: no RESUME at \(destinationSite) \(figure(limits.resumeLimit.seconds)) s after the guest left \(sourceSite)")
      if source.isGone {
        finish(.unresolved, "\(sourceSite) is gone and \(destinationSite) does not run the guest; a person must look", at: now)
      }
    case .giveBack:
      say("a person must look: the migration is over, but \(sourceSite) does not say that the guest runs")
    case .figures: considerEnd(at: now)
    case .fence: fenceWithoutProof(at: now)
    }
  }

  private mutating func fenceWithoutProof(at now: Instant) {
    guard case .moving(let moving) = state else { return }
    // A source that answers is asked on for as long as it takes: post-copy lasts as long as the memory does.
    guard !source.isConnected || moving.conflict != nil else { return set(.fence, limits.fenceLimit, at: now) }
    let why = moving.conflict ?? "not fenced, since \(sourceSite) cannot be asked whether the guest has left"
    finish(moving.conflict == nil ? .completed : .unresolved, why, at: now)
  }
}
