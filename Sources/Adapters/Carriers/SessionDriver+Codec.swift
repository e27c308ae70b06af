import Compression
import Dedup
import Flows
import NIOCore
import Relay
import SCTP
import Vocabulary

// The codec at the two ends of a sealed session (docs/wire/sealing.md): what OPEN and OPENED agree on, and coded frames as messages.

extension SessionDriver {
  /// What this session knows of the codec.
  final class Coding {
    let codec: SessionCodec
    var client: SessionCodecEnd
    var agent: SessionCodecEnd
    /// At the client: what the agent has said that it can do; nil until then, and of an agent that says nothing.
    var peer: CodecOffer?
    let flows: CodedFlows
    /// At the client until the session stands: frames of flows that were opened before, so that these are coded as well. Nil afterwards.
    /// `space` is zero meanwhile, so that there are few: what applications say first is left in their sockets.
    var early: [(flow: FlowID, frame: FlowFrame)]?
    /// Flows that were opened coded, until their streams begin anew: what still comes of one that was given up is not plain.
    var opened: Set<FlowID> = []
    /// Streams of flows that are over, and that nothing is asked of any more.
    var released: [FlowID] = []
    /// What this end has said of the flow in its answer, until that goes out.
    var answers: [FlowID: DataCoding] = [:]

    init(codec: SessionCodec, client: SessionCodecEnd, agent: SessionCodecEnd, flows: CodedFlows) {
      self.codec = codec
      self.client = client
      self.agent = agent
      self.flows = flows
    }
  }

  /// Codes the flows of this session, which must be sealed, as far as the other end does the same. Called before the association stands; `client` is the name in its certificate.
  package func encode(with codec: SessionCodec, client: String, machine: MachineID) {
    loop.preconditionInEventLoop()
    guard codec.offer.best > .plain else { return }
    let own = codec.offer.store
    coding = Coding(
      codec: codec, client: SessionCodecEnd(name: client, store: role == .opener ? own : 0),
      agent: SessionCodecEnd(name: "agent/\(machine.text)", store: role == .acceptor ? own : 0),
      flows: CodedFlows(hub: hub, line: self, pins: codec.pins))
    if role == .opener { coding?.early = [] }
  }

  /// What coded flows came to so far.
  package var codedStatistics: FlowStatistics? { coding?.flows.statistics }

  /// The same for a line of the log.
  package var figures: String {
    guard let sum = codedStatistics else { return "not coded" }
    return "sent \(sum.plainSent) as \(sum.wireSent), received \(sum.plainReceived) as \(sum.wireReceived)"
  }

  /// The session stands: the agent says what it can do.
  func offerCodec() {
    guard role == .acceptor, let coding else { return }
    tell(SessionMessage(.codec, coding.codec.offer.octets))
  }

  /// The agent has said what it can do.
  func take(_ offer: CodecOffer) {
    guard role == .opener, let coding else { return }
    coding.peer = offer
    coding.agent.store = offer.store
    beginFlows()
  }

  /// The session stands, and what the agent says with its first word is known.
  func beginFlows() {
    guard let early = coding?.early else { return }
    coding?.early = nil
    for (flow, frame) in early { transmit(frame, on: flow) }
    coding?.flows.turnEnds()
  }

  private func makeCodec(_ codings: FlowCodings) -> FlowCodec? {
    guard let coding else { return nil }
    return FlowCodec(
      outbound: codings.outbound, inbound: codings.inbound, cache: coding.codec.cache(client: coding.client, agent: coding.agent),
      window: limits.window, effort: coding.codec.effort, loop: loop)
  }
}

// MARK: Opening

extension SessionDriver {
  /// OPEN's body, at the client.
  func openingBody(_ frame: FlowFrame, of id: FlowID) -> ByteBuffer {
    var body = ByteBuffer()
    frame.writeBody(into: &body)
    guard let coding else { return body }
    coding.opened.remove(id)
    guard let peer = coding.peer, peer.best > .plain, coding.flows.count < SessionCodec.maximumFlows else { return body }
    let best = min(coding.codec.offer.best, peer.best)
    FlowCodings(outbound: best, inbound: best).write(store: coding.client.store, behind: &body)
    // Until OPENED says how the agent codes, nothing of it can be data.
    if let codec = makeCodec(FlowCodings(outbound: best, inbound: .plain)) { begin(id, codec) }
    return body
  }

  /// OPENED's body, at the agent.
  func answerBody(_ frame: FlowFrame, of id: FlowID) -> ByteBuffer {
    var body = ByteBuffer()
    frame.writeBody(into: &body)
    if let answer = coding?.answers.removeValue(forKey: id) { FlowCodings(outbound: answer, inbound: answer).write(behind: &body) }
    return body
  }

  /// OPEN has come; its tail is cut off. False: the flow has been refused here.
  func takeOpening(_ body: inout ByteBuffer, of id: FlowID) -> Bool {
    guard let coding, role == .acceptor else { return true }
    coding.opened.remove(id)
    guard let (codings, store) = FlowCodings.cut(fromOpen: &body) else { return true }
    guard coding.flows.count < SessionCodec.mostFlows else {
      transmit(.refused(.tooManyFlows), on: id)
      return false
    }
    coding.client.store = store
    let answer = min(codings.inbound, coding.codec.offer.best)
    guard let codec = makeCodec(FlowCodings(outbound: answer, inbound: codings.outbound)) else { return true }
    coding.answers[id] = codec.outbound
    begin(id, codec)
    return true
  }

  /// OPENED has come; its tail is cut off.
  func takeAnswer(_ body: inout ByteBuffer, of id: FlowID) {
    guard let codings = FlowCodings.cut(fromOpened: &body) else { return }
    coding?.flows[id]?.codec.answered(codings.outbound)  // unless it has been given up meanwhile
  }

  private func begin(_ id: FlowID, _ codec: FlowCodec) {
    coding?.flows.begin(id, codec)
    coding?.opened.insert(id)
  }
}

// MARK: The peer's frames

extension SessionDriver {
  /// DATA of a coded flow, and what only coded flows have. False: it is neither.
  func takeCoded(_ kind: CodedFrame.Kind, _ payload: ByteBuffer, on id: FlowID) throws(FlowViolation) -> Bool {
    guard let coding, coding.opened.contains(id) else { return kind != .data }  // late words on a flow that has closed here
    guard let frame = CodedFrame(kind: kind, body: payload) else { throw .unknownKind(UInt32(kind.rawValue)) }
    coding.flows.receive(frame, on: id, atMost: SessionCodec.decodedOctets)
    return true
  }

  /// The peer has let the stream begin anew: nothing that was said on it before comes any more.
  func forgetCoded(_ ids: [FlowID]) {
    guard let coding else { return }
    for id in ids {
      coding.flows.abandon(id)
      coding.opened.remove(id)
      coding.answers[id] = nil
    }
  }

  /// Streams that may begin anew, of flows of which nothing is owed any more.
  func takeStreamsToReset() -> [FlowID] {
    guard let coding else { return hub.takeChannelsToReset() }
    let ids = coding.flows.releasable(hub.takeChannelsToReset()) + coding.released
    coding.released.removeAll()
    return ids
  }
}

// MARK: The line of coded flows

extension SessionDriver: CodedFlowLine {
  package func write(_ frame: CodedFrame, of flow: CodedFlow) {
    var payload: ByteBuffer
    switch frame {
    case .data(let bytes), .literal(let bytes): payload = bytes
    case .reference, .missing, .chunk, .resolved, .lane:
      payload = ByteBuffer()
      frame.writeBody(into: &payload)
    }
    // Only octets may be the last of what an application says; the codec's own words need no acknowledgement in haste.
    let isData = frame.kind == .data || frame.kind == .literal
    put(payload, kind: frame.kind.rawValue, endsWrite: isData && payload.readableBytes < SessionDriver.shortWrite, on: flow.id)
  }

  package func cut(for flow: CodedFlow) -> Int { SessionDriver.maximumDataOctets }

  package func flushCodedFrames() { drive() }

  package func violated(_ flow: CodedFlow, _ violation: CodecViolation) {
    logger.warning("flow \(flow.id) reset, and what came of it is not delivered: \(violation)")
    coding?.flows.abandon(flow.id)
    hub.abandon(flow.id)
  }

  package func violated(_ violation: FlowViolation) { violate(violation) }

  package func ended(_ flow: CodedFlow) {
    let figures = flow.codec.statistics
    logger.debug(
      "flow closed",
      metadata: [
        "flow.id": "\(flow.id)", "sent": "\(figures.plainSent)", "sent.wire": "\(figures.wireSent)", "received": "\(figures.plainReceived)",
        "received.wire": "\(figures.wireReceived)",
      ])
  }

  package func released(_ id: FlowID) { coding?.released.append(id) }
}
