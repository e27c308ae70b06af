import DequeModule
import NIOCore
import Vocabulary

/// The flows of one session or one tunnel connection. See the folder's README for the life of a flow.
package struct FlowTable: Sendable {
  package enum Role: Sendable {
    /// This end opens flows and chooses their identifiers.
    case opener
    case acceptor
  }

  package let role: Role
  package let limits: FlowLimits
  package let identifiers: ClosedRange<UInt32>

  private var flows: [FlowID: Flow] = [:]
  private var frames: Deque<(id: FlowID, frame: FlowFrame)> = []
  private var events: Deque<FlowEvent> = []
  /// Identifiers that were used and are free again, oldest first; those from `fresh` on have never been used.
  private var returned: Deque<UInt32> = []
  private var fresh: UInt32?
  /// An identifier is used again only after its channel has begun anew in both directions; see `FlowTable+Reuse`.
  let identifiersRest: Bool
  /// Identifiers whose outgoing channel the owner is to reset.
  var toReset: [FlowID] = []
  /// Identifiers whose channel has begun anew in one direction.
  var halfReset: Set<FlowID> = []

  package init(role: Role, limits: FlowLimits, identifiers: ClosedRange<UInt32>, identifiersRest: Bool = false) {
    precondition(limits.maximumFlows >= 1)
    self.identifiersRest = identifiersRest
    self.role = role
    self.limits = limits
    self.identifiers = identifiers
    fresh = identifiers.lowerBound
  }
}

// MARK: Ask it

extension FlowTable {
  package var count: Int { flows.count }
  package var hasEvents: Bool { !events.isEmpty }

  /// Octets that `send` takes now.
  package func sendable(_ id: FlowID) -> Int {
    guard let flow = flows[id], flow.outbound == .open, flow.phase != .incoming else { return 0 }
    return flow.credit
  }

  /// Octets that were handed to the local side and not yet passed on.
  package func unconsumed(_ id: FlowID) -> Int { flows[id]?.unconsumed ?? 0 }

  /// Identifiers that `open` may take.
  package var freeIdentifiers: Int { returned.count + (fresh.map { Int(identifiers.upperBound - $0) + 1 } ?? 0) }

  /// True while the identifier stands for a flow.
  package func contains(_ id: FlowID) -> Bool { flows[id] != nil }

  package mutating func nextFrame() -> (id: FlowID, frame: FlowFrame)? { frames.popFirst() }
  package mutating func nextEvent() -> FlowEvent? { events.popFirst() }
}

// MARK: Tell it

extension FlowTable {
  /// Queues OPEN. Up to `limits.earlyData` octets may be sent at once behind it.
  ///
  /// - Parameter window: of this flow, where it has another than the table's usual one; at least `limits.earlyData`.
  package mutating func open(_ target: FlowTarget, window: Int? = nil) throws(FlowRefusal) -> FlowID {
    precondition(role == .opener)
    guard flows.count < limits.maximumFlows, let id = takeIdentifier() else { throw .tooManyFlows }
    let window = max(window ?? limits.window, limits.earlyData)
    flows[id] = Flow(phase: .opening, credit: limits.earlyData, allowance: window, window: window)
    queue(.open(target, window: UInt32(window)), id)
    return id
  }

  package mutating func accept(_ id: FlowID, window: Int? = nil) {
    guard var flow = flows[id], flow.phase == .incoming else { return }  // reset while the owner was dialling
    flow.phase = .established
    flow.window = max(window ?? limits.window, limits.earlyData)
    flow.allowance += flow.window - limits.earlyData
    flows[id] = flow
    queue(.opened(window: UInt32(flow.window)), id)
  }

  package mutating func refuse(_ id: FlowID, _ why: FlowRefusal) {
    guard let flow = flows[id], flow.phase == .incoming else { return }
    flows[id] = nil
    queue(.refused(why), id)
  }

  package mutating func send(_ bytes: ByteBuffer, on id: FlowID) {
    guard bytes.readableBytes > 0 else { return }
    guard flows[id] != nil else { return }  // closed by the peer while the octets were on their way here
    precondition(bytes.readableBytes <= sendable(id), "more sent on flow \(id) than its credit")
    flows[id]?.credit -= bytes.readableBytes
    queue(.data(bytes), id)
  }

  /// No more data from here. Anything after the first end or reset of this direction is without effect.
  package mutating func end(_ id: FlowID) {
    guard let flow = flows[id], flow.outbound == .open else { return }
    precondition(flow.phase != .incoming, "flow \(id) was neither accepted nor refused")
    flows[id]?.outbound = .ended
    queue(.end, id)
    closeIfDone(id)
  }

  /// The local side is gone. The flow closes when the peer has ended its direction too.
  package mutating func reset(_ id: FlowID) {
    guard let flow = flows[id], flow.outbound != .reset else { return }
    if flow.phase == .incoming { return refuse(id, .failed) }
    flows[id]?.outbound = .reset
    queue(.reset, id)
    closeIfDone(id)
  }

  /// The local side has passed octets on; when an eighth of the window has gone by, CREDIT tells the peer. What is owed is nothing that
  /// the peer can use, so a smaller share lets it send longer while octets wait here for a lost one; 12 octets of CREDIT for 2 MiB are nothing.
  ///
  /// Only octets of the flow that has the identifier now may be reported: an owner forgets a flow's socket at `closed`, before the identifier can come again.
  package mutating func consumed(_ octets: Int, on id: FlowID) {
    guard var flow = flows[id] else { return }
    precondition(octets <= flow.unconsumed, "flow \(id) passed on more than it got")
    flow.unconsumed -= octets
    flow.owedCredit += octets
    let due = flow.owedCredit >= flow.window / 8 && flow.inbound == .open && flow.outbound != .reset
    if due {
      queue(.credit(UInt32(flow.owedCredit)), id)
      flow.allowance += flow.owedCredit
      flow.owedCredit = 0
    }
    flows[id] = flow
  }

  /// The session or tunnel connection is gone: every flow ends with it.
  package mutating func closeAll(_ why: FlowRefusal) {
    frames.removeAll()
    for id in flows.keys.sorted() {
      guard let flow = flows.removeValue(forKey: id) else { continue }
      if flow.phase == .opening {
        events.append(.refused(id, why))
      } else {
        events.append(.reset(id))
        events.append(.closed(id))
      }
    }
    returned.removeAll()
    toReset.removeAll()
    halfReset.removeAll()
    fresh = identifiers.lowerBound
  }
}

// MARK: What the peer says

extension FlowTable {
  package mutating func receive(_ frame: FlowFrame, on id: FlowID) throws(FlowViolation) {
    guard identifiers.contains(id.value) else { throw .identifierOutOfRange(id) }
    if case .open(let target, let window) = frame { return try receiveOpen(target, window: window, on: id) }
    guard let flow = flows[id] else { return }  // late words on a flow that has closed here
    switch flow.phase {
    case .opening: try receiveAnswer(frame, on: id)
    case .incoming, .established: try receiveEstablished(frame, on: id, flow)
    }
  }

  private mutating func receiveOpen(_ target: FlowTarget, window: UInt32, on id: FlowID) throws(FlowViolation) {
    guard role == .acceptor else { throw .openFromAcceptor(id) }
    guard flows[id] == nil else { throw .openOfUsedFlow(id) }
    guard flows.count < limits.maximumFlows else { return queue(.refused(.tooManyFlows), id) }
    // Before the answer only early data may come: nobody takes it off our hands yet.
    flows[id] = Flow(phase: .incoming, credit: Int(window), allowance: limits.earlyData, window: limits.window)
    events.append(.incoming(id, target))
  }

  /// The opener waits for OPENED or REFUSED; whatever else comes belongs to the flow that had this identifier before.
  private mutating func receiveAnswer(_ frame: FlowFrame, on id: FlowID) throws(FlowViolation) {
    switch frame {
    case .opened(let window):
      guard var flow = flows[id] else { return }
      let spent = limits.earlyData - flow.credit
      guard Int(window) >= spent else { throw .unexpected(.opened, id) }
      let wasEmpty = flow.credit == 0
      flow.phase = .established
      flow.credit = Int(window) - spent
      flows[id] = flow
      guard flow.outbound != .reset else { return }  // we gave up meanwhile; the peer's answer to our RESET closes the flow
      events.append(.opened(id))
      if wasEmpty, flow.credit > 0, flow.outbound == .open { events.append(.writable(id)) }
    case .refused(let why):
      guard let flow = flows.removeValue(forKey: id) else { return }
      rest(id)
      if flow.outbound == .reset { events.append(.closed(id)) } else { events.append(.refused(id, why)) }
    default: return
    }
  }

  private mutating func receiveEstablished(_ frame: FlowFrame, on id: FlowID, _ state: Flow) throws(FlowViolation) {
    var flow = state
    switch frame {
    case .open, .opened, .refused: throw .unexpected(frame.kind, id)
    case .data(let bytes):
      guard flow.inbound == .open else { throw .unexpected(.data, id) }
      guard bytes.readableBytes <= flow.allowance else { throw .moreDataThanCredit(id) }
      flow.allowance -= bytes.readableBytes
      flow.unconsumed += bytes.readableBytes
      flows[id] = flow
      // After our own reset nobody is there to take data; the peer learns of the reset in time.
      if flow.outbound != .reset { events.append(.data(id, bytes)) }
    case .credit(let octets):
      guard flow.credit + Int(octets) <= Int(UInt32.max) else { throw .creditOverflow(id) }
      let wasEmpty = flow.credit == 0
      flow.credit += Int(octets)
      flows[id] = flow
      if wasEmpty, octets > 0, flow.outbound == .open, flow.phase == .established { events.append(.writable(id)) }
    case .end:
      guard flow.inbound == .open else { throw .unexpected(.end, id) }
      flows[id]?.inbound = .ended
      if flow.outbound != .reset { events.append(.ended(id)) }
      closeIfDone(id)
    case .reset: receiveReset(on: id, flow)
    }
  }

  private mutating func receiveReset(on id: FlowID, _ flow: Flow) {
    if flow.phase == .incoming {  // the opener gave up before we answered; REFUSED is the answer that lets it use the identifier again
      flows[id] = nil
      queue(.refused(.lost), id)
      events.append(.reset(id))
      events.append(.closed(id))
      return
    }
    flows[id]?.inbound = .reset
    if flow.outbound != .reset { events.append(.reset(id)) }
    if flow.outbound == .open {
      flows[id]?.outbound = .reset
      queue(.reset, id)
    }
    closeIfDone(id)
  }
}

// MARK: Helpers

extension FlowTable {
  private struct Flow: Sendable {
    enum Phase: Sendable {
      /// OPEN was sent, no answer yet.
      case opening
      /// OPEN was received, the owner has not answered.
      case incoming
      case established
    }
    enum Direction: Sendable { case open, ended, reset }

    var phase: Phase
    var outbound: Direction = .open
    var inbound: Direction = .open
    /// Octets we may still send.
    var credit: Int
    /// Octets the peer may still send.
    var allowance: Int
    /// Octets that this end takes before it gives CREDIT.
    var window: Int
    /// Octets that were handed to the local side and not yet passed on.
    var unconsumed = 0
    /// Octets passed on, for which no CREDIT has been sent yet.
    var owedCredit = 0

    init(phase: Phase, credit: Int, allowance: Int, window: Int) {
      self.phase = phase
      self.credit = credit
      self.allowance = allowance
      self.window = window
    }
  }

  private mutating func queue(_ frame: FlowFrame, _ id: FlowID) { frames.append((id, frame)) }

  /// A flow is done when both directions are, and, at the opener, when the peer has answered OPEN: else the answer would meet the next flow.
  private mutating func closeIfDone(_ id: FlowID) {
    guard let flow = flows[id], flow.phase == .established, flow.outbound != .open, flow.inbound != .open else { return }
    flows[id] = nil
    if role == .opener { rest(id) }
    events.append(.closed(id))
  }

  private mutating func rest(_ id: FlowID) { if identifiersRest { toReset.append(id) } else { free(id) } }

  mutating func free(_ id: FlowID) { returned.append(id.value) }

  /// Free identifiers come back oldest first, so that an identifier rests as long as possible.
  private mutating func takeIdentifier() -> FlowID? {
    if let value = fresh {
      fresh = value < identifiers.upperBound ? value + 1 : nil
      return FlowID(value)
    }
    return returned.popFirst().map { FlowID($0) }
  }
}
