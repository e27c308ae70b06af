import Dedup
import Flows
import NIOCore
import Relay
import Vocabulary

/// What carries the frames of coded flows: a tunnel connection or a session. Bound to its flows' event loop.
package protocol CodedFlowLine: AnyObject {
  /// Takes a frame behind all others of its flow. It may refuse none.
  func write(_ frame: CodedFrame, of flow: CodedFlow)
  /// The longest frame of this flow now, in octets before compression.
  func cut(for flow: CodedFlow) -> Int
  var roundTrip: TimeSpan? { get }
  /// Frames have been written at a time of the codec's own, and nobody else says that they are to go out.
  func flushCodedFrames()
  /// What the peer said on this flow cannot be.
  func violated(_ flow: CodedFlow, _ violation: CodecViolation)
  /// What the peer said cannot be.
  func violated(_ violation: FlowViolation)
  /// Nothing of the flow is owed any more; its figures are final.
  func ended(_ flow: CodedFlow)
  /// An identifier that `CodedFlows.releasable` kept back may be used again.
  func released(_ id: FlowID)
}

/// The coded flows of one tunnel connection or session: their octets on the way from the hub to the line, and back.
package final class CodedFlows {
  /// Octets of chunks that one flow gets from the store ahead of its socket: what a stopped receiver costs beside the names. 1 Gbit/s x 8 ms.
  private static let chunksAhead = 1 << 20
  /// How long the start of a chunk may wait for the rest while the flow moves much: a sixteenth of the round trip, within these. (2 ms: at 100 Mbit/s two chunks.)
  private static let shortestHold = TimeSpan.milliseconds(Int64(2))
  private static let longestHold = TimeSpan.milliseconds(Int64(10))

  private let hub: FlowHub
  private weak var line: (any CodedFlowLine)?
  private let pins: PinBudget
  /// The living ones, and those that are over but for chunks that the peer has not found yet.
  private var flows: [FlowID: CodedFlow] = [:]
  /// Flows that hold octets for the end of their chunk.
  private var holding: [CodedFlow] = []
  private var holdTask: Scheduled<Void>?
  /// Flows that have sent in this turn: what it names goes out together.
  private var hasSent: [CodedFlow] = []
  /// Identifiers of flows that are over, kept from use until nothing can be asked of them.
  private var resting: Set<FlowID> = []
  private var hasWritten = false
  private var ended = FlowStatistics()

  /// - Parameter line: is not kept alive.
  package init(hub: FlowHub, line: any CodedFlowLine, pins: PinBudget) {
    self.hub = hub
    self.line = line
    self.pins = pins
    hub.onPassedOn = { [weak self] id in self?.passedOn(id) }
  }

  private static func now() -> Instant { Instant(nanoseconds: Int64(NIODeadline.now().uptimeNanoseconds)) }
}

// MARK: Ask it

extension CodedFlows {
  package subscript(id: FlowID) -> CodedFlow? { flows[id] }
  package var count: Int { flows.count }
  /// What all flows came to, ended and living.
  package var statistics: FlowStatistics { flows.values.reduce(into: ended) { $0 += $1.codec.statistics } }
}

// MARK: Beginning and end

extension CodedFlows {
  /// A flow begins. Where the identifier still stands for one that lives, nothing changes: the hub knows a violation when it sees one.
  package func begin(_ id: FlowID, _ codec: FlowCodec) {
    if let former = flows[id] {
      guard former.isOver else { return }
      forget(former)
    }
    let flow = CodedFlow(id: id, codec: codec)
    codec.onProgress = { [weak self, weak flow] in
      guard let self, let flow, self.flows[id] === flow else { return }
      self.move(flow)
      self.hub.receiveComplete()
      self.flushIfWritten()
    }
    flows[id] = flow
  }

  /// The flow has been given up by either end: nothing is owed any more.
  package func abandon(_ id: FlowID) {
    guard let flow = flows[id] else { return }
    flow.codec.abandon()
    forget(flow)
  }

  /// The line is gone for good.
  package func abandonAll() {
    holdTask?.cancel()
    for id in flows.keys.sorted() { abandon(id) }
    holding.removeAll()
    hasSent.removeAll()
    resting.removeAll()
  }

  /// Those of these identifiers that may be used again; chunks of the others may still be asked for, and `released` names them later.
  package func releasable(_ ids: [FlowID]) -> [FlowID] {
    guard !flows.isEmpty else { return ids }
    return ids.filter { id in
      if flows[id] == nil { return true }
      resting.insert(id)
      return false
    }
  }

  private func forgetIfDone(_ flow: CodedFlow) {
    if flow.isOver, flow.codec.pinnedOctets == 0 { forget(flow) }
  }

  private func forget(_ flow: CodedFlow) {
    guard flows[flow.id] === flow else { return }
    flows[flow.id] = nil
    flow.codec.onProgress = nil
    pins.octets -= flow.countedPins
    flow.countedPins = 0
    ended += flow.codec.statistics
    line?.ended(flow)
    if resting.remove(flow.id) != nil { line?.released(flow.id) }
  }
}

// MARK: What the peer says

extension CodedFlows {
  /// A coded frame. One of a flow that this end has forgotten is late, and dropped. `limit`: octets that one DATA may stand for.
  package func receive(_ frame: CodedFrame, on id: FlowID, atMost limit: Int) {
    guard let flow = flows[id] else { return }
    do throws(CodecViolation) {
      try flow.codec.receive(frame, atMost: limit)
    } catch {
      line?.violated(flow, error)
      return
    }
    move(flow)
  }

  /// END waits for the octets before it.
  package func receiveEnd(on id: FlowID) {
    guard let flow = flows[id] else { return give(.end, to: id) }
    flow.hasReceivedEnd = true
    do throws(CodecViolation) {
      try flow.codec.endReceiving()
    } catch {
      line?.violated(flow, error)
      return
    }
    move(flow)
  }

  /// Delivers what can be delivered, and says what is to be said.
  private func move(_ flow: CodedFlow) {
    do throws(CodecViolation) {
      while let bytes = try flow.codec.nextDelivery(ahead: max(CodedFlows.chunksAhead - hub.unconsumed(flow.id), 0)) {
        give(.data(bytes), to: flow.id)
      }
    } catch {
      line?.violated(flow, error)
      return
    }
    writeFrames(of: flow)
    countPins(of: flow)
    if flow.hasReceivedEnd, !flow.hasEnded, !flow.codec.hasUndelivered {
      flow.hasEnded = true
      flow.codec.stopReceiving()
      give(.end, to: flow.id)
    }
    forgetIfDone(flow)
  }

  /// The socket has taken octets: there may be room for chunks that wait.
  private func passedOn(_ id: FlowID) {
    guard let flow = flows[id], flow.codec.hasUndelivered else { return }
    move(flow)
    hub.receiveComplete()
    flushIfWritten()
  }

  private func give(_ frame: FlowFrame, to id: FlowID) {
    do throws(FlowViolation) { try hub.receive(frame, on: id) } catch { line?.violated(error) }
  }
}

// MARK: What the hub says

extension CodedFlows {
  /// Octets of the application; `turnEnds` follows, and lets them out. Octets of a flow that has been given up are dropped.
  package func send(_ plain: ByteBuffer, on id: FlowID) {
    guard let flow = flows[id] else { return }
    flow.codec.send(plain, cut: cut(for: flow), mayName: pins.hasRoom, at: CodedFlows.now())
    countPins(of: flow)
    guard !flow.hasSent else { return }
    flow.hasSent = true
    hasSent.append(flow)
  }

  /// No more is sent: what is held goes out, and `writeEnd` writes END behind it.
  package func endSending(on id: FlowID, _ writeEnd: () -> Void) {
    guard let flow = flows[id] else { return writeEnd() }
    flow.codec.endSending(cut: cut(for: flow))
    writeFrames(of: flow)
    writeEnd()
    flow.hasSentEnd = true
    countPins(of: flow)
    forgetIfDone(flow)
  }

  /// The hub has handed over all frames of a turn: who says little is not held back, and what moves much waits for the end of its chunk.
  package func turnEnds() {
    hasWritten = false
    guard !hasSent.isEmpty else { return }
    let now = CodedFlows.now()
    for flow in hasSent {
      flow.hasSent = false
      writeFrames(of: flow)
      guard flow.codec.heldOctets > 0 else { continue }
      guard flow.codec.isBulk(at: now, within: hold) else {
        release(flow)
        continue
      }
      if flow.heldSince == nil { holding.append(flow) }
      flow.heldSince = now
    }
    hasSent.removeAll(keepingCapacity: true)
    watchHolding()
    hasWritten = false
  }

  private func countPins(of flow: CodedFlow) {
    let pinned = flow.codec.pinnedOctets
    pins.octets += pinned - flow.countedPins
    flow.countedPins = pinned
  }

  private func cut(for flow: CodedFlow) -> Int { line?.cut(for: flow) ?? ChunkLimits.maximum }

  private func writeFrames(of flow: CodedFlow) {
    while let frame = flow.codec.nextFrame() {
      hasWritten = true
      line?.write(frame, of: flow)
    }
  }

  private func flushIfWritten() {
    guard hasWritten else { return }
    hasWritten = false
    line?.flushCodedFrames()
  }
}

// MARK: Octets that wait for the end of their chunk

extension CodedFlows {
  /// A flow that says little is never held back; what moves much waits so long at most.
  private var hold: TimeSpan {
    guard let roundTrip = line?.roundTrip else { return CodedFlows.shortestHold }
    return min(max(TimeSpan.nanoseconds(roundTrip.nanoseconds / 16), CodedFlows.shortestHold), CodedFlows.longestHold)
  }

  /// What is held goes out in full.
  private func release(_ flow: CodedFlow) {
    guard flows[flow.id] === flow else { return }
    flow.codec.flush(cut: cut(for: flow))
    writeFrames(of: flow)
  }

  private func watchHolding() {
    guard holdTask == nil, !holding.isEmpty else { return }
    holdTask = hub.loop.assumeIsolated().scheduleTask(in: .nanoseconds(hold.nanoseconds)) { [weak self] in self?.releaseHeld() }
  }

  private func releaseHeld() {
    holdTask = nil
    let now = CodedFlows.now()
    for flow in holding {
      guard flow.codec.heldOctets > 0, let since = flow.heldSince, now - since < hold else {
        if flow.codec.heldOctets > 0 { release(flow) }
        flow.heldSince = nil
        continue
      }
    }
    holding.removeAll { $0.heldSince == nil }
    flushIfWritten()
    watchHolding()
  }
}
