import Flows
import Logging
import NIOCore
import Vocabulary

/// What carries a hub's frames: an association's streams, or a tunnel connection. Bound to the hub's event loop.
package protocol FlowTransport: AnyObject {
  /// Octets of data that it takes now; zero stops the reading of sockets until `FlowHub.transportHasSpace`.
  var space: Int { get }
  /// Octets that it takes of this flow now, whatever the flow's credit; when there are more again, its owner calls `FlowHub.resume`.
  func room(on flow: FlowID) -> Int
  /// Takes a frame. It may refuse none: `space` is what holds the hub back.
  func transmit(_ frame: FlowFrame, on flow: FlowID)
  /// All frames of one turn have been handed over.
  func flush()
}

extension FlowTransport {
  package func room(on flow: FlowID) -> Int { .max }
}

/// The flows of one session or tunnel connection and their sockets.
package final class FlowHub {
  /// Octets of early data that wait for a service to be dialled are bounded by `FlowLimits.earlyData`; this bounds a single DATA frame.
  package let maximumDataOctets: Int
  /// Called for a flow that the peer opens; answer with `accept` or `refuse`, now or later.
  package var onIncoming: (FlowID, FlowTarget) -> Void
  /// Called when a flow's socket has taken octets.
  package var onPassedOn: ((FlowID) -> Void)?
  /// Called when the last flow of a burst has gone, so that an owner which drains can end.
  package var onIdle: (() -> Void)?

  package let loop: any EventLoop
  private var table: FlowTable
  private weak var transport: (any FlowTransport)?
  private var flows: [FlowID: Entry] = [:]
  private var isPumping = false
  /// Octets of DATA that relays gave while frames were being handed over: the transport does not know of them yet.
  private var untransmitted = 0
  /// True after such octets left a flow with credit no room. The transport was not full, so it will not say that it has space.
  private var hasSentAway = false
  /// True after a flow with credit found no space in the transport; the transport's owner then calls `transportHasSpace`.
  package private(set) var isStarved = false
  /// Flows whose sockets got something since the last flush.
  private var touched: Set<FlowID> = []
  /// Flows with credit that found no room.
  private var scheduler = FlowScheduler()
  private let logger: Logger

  private struct Entry {
    var relay: SocketRelay?
    /// Called once with nil when the flow is open, or with the refusal.
    var answer: ((FlowRefusal?) -> Void)?
    /// What came before the service was connected.
    var early: [ByteBuffer] = []
    var hasEarlyEnd = false
    /// `normal`: by what the flow does.
    var priority = FlowPriority.normal
    var pace = FlowPace()

    var effectivePriority: FlowPriority { priority == .normal ? pace.priority : priority }
  }

  package init(
    loop: any EventLoop, role: FlowTable.Role, limits: FlowLimits, identifiers: ClosedRange<UInt32>, identifiersRest: Bool = false,
    maximumDataOctets: Int, logger: Logger, onIncoming: @escaping (FlowID, FlowTarget) -> Void
  ) {
    self.loop = loop
    table = FlowTable(role: role, limits: limits, identifiers: identifiers, identifiersRest: identifiersRest)
    self.maximumDataOctets = maximumDataOctets
    self.logger = logger
    self.onIncoming = onIncoming
  }

  /// The transport is not kept alive by its hub.
  package func attach(transport: any FlowTransport) { self.transport = transport }

  package var count: Int { table.count }
  /// Octets that were given to the flow's socket and not taken by it yet.
  package func unconsumed(_ id: FlowID) -> Int { table.unconsumed(id) }
}

// MARK: Opening

extension FlowHub {
  /// Opens a flow. `answer` gets nil when the far side is connected, or the refusal. A channel may be joined with `join` at once: early data
  /// then goes out behind OPEN, and nothing is written to the channel before `answer(nil)` has returned.
  ///
  /// - Parameter window: of this flow, where it has another than the hub's usual one.
  package func open(_ target: FlowTarget, window: Int? = nil, answer: @escaping (FlowRefusal?) -> Void) throws(FlowRefusal) -> FlowID {
    loop.preconditionInEventLoop()
    guard transport != nil else { throw .lost }
    let id = try table.open(target, window: window)
    flows[id] = Entry(answer: answer)
    pump()
    return id
  }

  /// Joins a channel of this event loop to an open or opening flow. The channel must allow remote half-closure.
  /// - Parameter gate: holds back the reading of the channel.
  package func join(_ channel: any Channel, to id: FlowID, gate: ReadGate? = nil) {
    loop.preconditionInEventLoop()
    precondition(channel.eventLoop === loop, "a flow and its socket live on one event loop")
    guard flows[id] != nil else {  // the flow ended while the channel was being made
      SocketRelay.abort(channel)
      return
    }
    let relay = SocketRelay(hub: self, flow: id, gate: gate)
    flows[id]?.relay = relay
    do {
      try channel.pipeline.syncOperations.addHandler(relay)
    } catch {
      logger.debug("the socket of a flow closed before it was joined", metadata: ["flow.id": "\(id)", "error": "\(error)"])
      table.reset(id)
      return pump()
    }
    let entry = flows[id]
    flows[id]?.early = []
    for bytes in entry?.early ?? [] { relay.deliver(bytes) }
    if entry?.hasEarlyEnd == true { relay.deliverEnd() }
    relay.flush()
    relay.resume()
  }

  /// Accepts a flow that came in and joins it to its service's channel.
  package func accept(_ id: FlowID, with channel: any Channel, window: Int? = nil, gate: ReadGate? = nil) {
    loop.preconditionInEventLoop()
    guard table.contains(id), flows[id] != nil else { return SocketRelay.abort(channel) }
    table.accept(id, window: window)
    join(channel, to: id, gate: gate)
    pump()
  }

  /// What each class gets of a full transport. Before any flow is opened.
  package func setWeights(_ weights: FlowScheduler.Weights) { scheduler = FlowScheduler(weights) }

  /// Which flows this one goes before; `normal`, which all are at first, is by what it does.
  package func setPriority(_ priority: FlowPriority, of id: FlowID) { flows[id]?.priority = priority }

  package func refuse(_ id: FlowID, _ why: FlowRefusal) {
    loop.preconditionInEventLoop()
    flows[id] = nil
    table.refuse(id, why)
    pump()
  }

  /// Gives a flow up from this side, for instance because the application went while its flow was opening.
  package func abandon(_ id: FlowID) {
    loop.preconditionInEventLoop()
    table.reset(id)
    pump()
  }
}

// MARK: The transport

extension FlowHub {
  /// A frame has come. Thrown: the peer broke the protocol, and its connection should end.
  package func receive(_ frame: FlowFrame, on id: FlowID) throws(FlowViolation) {
    loop.preconditionInEventLoop()
    try table.receive(frame, on: id)
    handleEvents()  // before the next frame: the identifier may be used again by it
  }

  /// All frames of one read have been given to `receive`: sockets are flushed, answers sent.
  package func receiveComplete() {
    pump()
    for id in touched {
      flows[id]?.relay?.flush()
    }
    touched.removeAll(keepingCapacity: true)
  }

  /// The transport takes data again. Those that wait are served in turn, by class and weight.
  package func transportHasSpace() {
    loop.preconditionInEventLoop()
    isStarved = false
    for _ in 0..<scheduler.count {  // each once: who is back again found no room
      guard let transport, transport.space > 0 else {
        isStarved = true
        break
      }
      guard let id = scheduler.next() else { break }
      flows[id]?.relay?.resume()
    }
    pump()
  }

  /// The transport takes more of this flow again.
  package func resume(_ id: FlowID) {
    flows[id]?.relay?.resume()
    pump()
  }

  /// The transport is gone for good: every flow ends with it.
  package func transportLost(_ why: FlowRefusal) {
    loop.preconditionInEventLoop()
    table.closeAll(why)
    transport = nil
    handleEvents()
  }
}

// MARK: Channels that begin anew

extension FlowHub {
  package var hasChannelsToReset: Bool { table.hasChannelsToReset }
  package func takeChannelsToReset() -> [FlowID] { table.takeChannelsToReset() }
  package func channelsReset(outgoing ids: [FlowID]) { table.channelsReset(outgoing: ids) }
  package func channelsReset(incoming ids: [FlowID]) throws(FlowViolation) { try table.channelsReset(incoming: ids) }
  package func reuseWithoutReset(_ ids: [FlowID]) { table.reuseWithoutReset(ids) }
}

// MARK: The relays

extension FlowHub {
  /// Octets that the flow of this relay takes now.
  func room(for relay: SocketRelay) -> Int {
    guard let transport, flows[relay.flow]?.relay === relay else { return 0 }
    let credit = min(table.sendable(relay.flow), transport.room(on: relay.flow))
    let space = max(transport.space, 0)
    let room = min(credit, max(space - untransmitted, 0))
    if credit > 0, room == 0 {
      scheduler.wait(relay.flow, flows[relay.flow]?.effectivePriority ?? .normal)
      if space == 0 { isStarved = true } else { hasSentAway = true }
    }
    return room
  }

  func relay(_ relay: SocketRelay, read bytes: ByteBuffer) {
    guard let entry = flows[relay.flow], entry.relay === relay else { return }
    if entry.priority == .normal {
      flows[relay.flow]?.pace.note(bytes.readableBytes, at: Instant(nanoseconds: Int64(NIODeadline.now().uptimeNanoseconds)))
    }
    // What makes a flow a normal one is not the interactive ones' to answer for.
    scheduler.passed(bytes.readableBytes, flows[relay.flow]?.effectivePriority ?? entry.effectivePriority)
    var bytes = bytes
    while let part = bytes.readSlice(length: min(maximumDataOctets, bytes.readableBytes)), part.readableBytes > 0 {
      table.send(part, on: relay.flow)
      untransmitted += part.readableBytes
    }
    pump()
  }

  func relayEnded(_ relay: SocketRelay) {
    guard flows[relay.flow]?.relay === relay else { return }
    table.end(relay.flow)
    pump()
  }

  func relayFailed(_ relay: SocketRelay) {
    guard flows[relay.flow]?.relay === relay else { return }
    table.reset(relay.flow)
    pump()
  }

  func relay(_ relay: SocketRelay, passedOn octets: Int) {
    guard flows[relay.flow]?.relay === relay else { return }
    table.consumed(octets, on: relay.flow)
    onPassedOn?(relay.flow)
    pump()
  }
}

// MARK: Helpers

extension FlowHub {
  private func pump() {
    guard !isPumping else { return }
    isPumping = true
    var hasSent = false
    repeat {
      handleEvents()
      while let (id, frame) = table.nextFrame() {
        transport?.transmit(frame, on: id)
        hasSent = true
      }
      untransmitted = 0
    } while table.hasEvents
    isPumping = false
    if hasSent { transport?.flush() }
    guard hasSentAway else { return }
    hasSentAway = false
    transportHasSpace()
  }

  private func handleEvents() {
    while let event = table.nextEvent() { handle(event) }
  }

  private func handle(_ event: FlowEvent) {
    switch event {
    case .incoming(let id, let target):
      flows[id] = Entry()
      onIncoming(id, target)
    case .opened(let id):
      let answer = flows[id]?.answer
      flows[id]?.answer = nil
      answer?(nil)
    case .refused(let id, let why):
      let entry = flows.removeValue(forKey: id)
      scheduler.remove(id)
      entry?.relay?.detach()
      entry?.answer?(why)
      tellIfIdle()
    case .data(let id, let bytes):
      if let relay = flows[id]?.relay {
        relay.deliver(bytes)
        touched.insert(id)
      } else {
        flows[id]?.early.append(bytes)
      }
    case .writable(let id): flows[id]?.relay?.resume()
    case .ended(let id):
      if let relay = flows[id]?.relay { relay.deliverEnd() } else { flows[id]?.hasEarlyEnd = true }
    case .reset(let id): flows[id]?.relay?.abort()
    case .closed(let id):
      let entry = flows.removeValue(forKey: id)
      scheduler.remove(id)
      touched.remove(id)
      entry?.relay?.flowClosed()
      entry?.answer?(.lost)
      tellIfIdle()
    }
  }

  private func tellIfIdle() {
    if flows.isEmpty { onIdle?() }
  }
}
