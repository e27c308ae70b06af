import Authentication
import Compression
import Dedup
import DequeModule
import Flows
import Logging
import NIOCore
import NIOPosix
import Relay
import SCTP
import Sealing
import Vocabulary

/// The engine with the codes of swift-crypto.
package typealias SessionAssociation = Association
package typealias SessionListener = Listener

/// What a session's owner (the agent, the client) hears of it, on the session's event loop.
package enum SessionEvent {
  case established
  /// Both directions use this carrier now.
  case moved(CarrierID)
  case peerAnnounced(IPAddress)
  case peerWithdrew(IPAddress)
  /// The peer has acknowledged our announcement.
  case announced(IPAddress)
  case withdrawn(IPAddress)
  case announcementRefused(IPAddress, String)
  /// Nothing has come back on the active carrier for too long.
  case carrierSilent(CarrierID)
  case carrierClosed(CarrierID, String)
  /// The agent says, and nobody has signed it, that it does not know this sealed session.
  case agentForgot
  case roundTrip(CarrierID, TimeSpan)
  case told(SessionMessage)
  /// The session is over, by shutdown (nil) or for a reason.
  case ended(String?)
}

/// One session: an association, its carriers, its deadline and its flows, on one event loop.
package final class SessionDriver {
  /// The upper 16 bits of our payload protocol identifiers, "LH" in ASCII; the lower ones are the kind of flow frame.
  package static let protocolFamily: UInt32 = 0x4c48_0000
  /// One DATA frame: 16 KiB, so that a small flow waits at most 1.3 ms at 100 Mbit/s behind a bulk flow's message.
  package static let maximumDataOctets = 16 << 10
  /// Of coded frames the shorter ones end what the application has written, and are acknowledged at once.
  static let shortWrite = 2 << 10
  /// Frames that wait while the association's send buffer is full. Data stops before (`space`), so these are control frames, a few for each flow, and chunks that the peer lacked, which were kept anyway.
  package static let maximumWaitingFrames = 4 * 65_535

  package let loop: any EventLoop
  package let hub: FlowHub
  package private(set) var association: SessionAssociation
  package var onEvent: (SessionEvent) -> Void = { _ in }
  /// Its name on the wire, if it is sealed.
  package internal(set) var sealedID: SealedSessionID?
  /// The name in the client's certificate (at an agent, if the session is sealed).
  package internal(set) var clientName: String?

  /// Send space that wakes flows: four frames, so that they are not woken for every octet that a SACK frees.
  package static let leastSpace = 4 * maximumDataOctets

  let role: FlowTable.Role
  let limits: FlowLimits
  let logger: Logger
  /// Nil where the session is not sealed, or this end has no codec.
  var coding: Coding?
  /// Of the active carrier, as last measured.
  package private(set) var roundTrip: TimeSpan?
  private var carriers: [CarrierID: Carrier] = [:]
  private var localAddresses: [CarrierID: IPAddress] = [:]
  private var unflushed: Set<CarrierID> = []
  private var waiting: Deque<Message> = []
  private lazy var timer = DeadlineTimer(loop: loop) { [weak self] in self?.ring() }
  private var isDriving = false
  private var hasEnded = false

  /// A frame as it goes to the association.
  private struct Message {
    var payload: ByteBuffer
    var kind: UInt8
    var endsWrite: Bool
    var flow: FlowID
  }

  /// - Parameter role: the client opens flows, the agent accepts them.
  package init(
    association: SessionAssociation, loop: any EventLoop, role: FlowTable.Role, limits: FlowLimits, logger: Logger,
    onIncoming: @escaping (FlowID, FlowTarget) -> Void
  ) {
    self.association = association
    self.loop = loop
    self.role = role
    self.limits = limits
    self.logger = logger
    hub = FlowHub(
      loop: loop, role: role, limits: limits, identifiers: 0...65_534, identifiersRest: true,
      maximumDataOctets: SessionDriver.maximumDataOctets, logger: logger, onIncoming: onIncoming)
    hub.attach(transport: self)
  }

  package static func now() -> Instant { Instant(nanoseconds: Int64(NIODeadline.now().uptimeNanoseconds)) }
}

// MARK: Carriers

extension SessionDriver {
  /// Takes a carrier over: its events come here from now on. The association knows it already (its first packet came on it, or INIT goes out on it).
  package func adopt(_ carrier: Carrier, local: IPAddress) {
    loop.preconditionInEventLoop()
    localAddresses[carrier.id] = local
    carriers[carrier.id] = carrier
    carrier.events = events()
    if !carrier.isWritable { association.carrierWritable(carrier.id, false) }
    drive()
  }

  /// A further carrier is open, and not used yet.
  package func open(_ carrier: Carrier, local: IPAddress, remote: IPAddress) {
    loop.preconditionInEventLoop()
    carriers[carrier.id] = carrier
    localAddresses[carrier.id] = local
    carrier.events = events()
    association.carrierOpened(carrier.id, local: local, remote: remote, at: SessionDriver.now())
    drive()
  }

  /// The address at which the active carrier reaches this end.
  package var activeLocalAddress: IPAddress? { association.activeCarrier.flatMap { localAddresses[$0] } }

  /// The callbacks of a carrier that belongs to this session.
  private func events() -> Carrier.Events {
    Carrier.Events(
      packet: { [weak self] in self?.receive($1, on: $0.id) },
      readComplete: { [weak self] _ in self?.readComplete() },
      writability: { [weak self] in self?.writability($1, of: $0.id) },
      unknownSession: { [weak self] _ in self?.onEvent(.agentForgot) },
      closed: { [weak self] in self?.closed($0.id, $1) })
  }

  /// The key of SCTP AUTH has come out of the exchange; INIT is out already.
  package func provide(endpointKey: [UInt8]) { association.provide(endpointKey: endpointKey) }

  package func receive(_ packet: ByteBuffer, on carrier: CarrierID) {
    association.receive(packet, on: carrier, at: SessionDriver.now())
    drive()
  }

  private func readComplete() {
    if association.state == .established { beginFlows() }
    hub.receiveComplete()
    drive()
  }

  private func writability(_ isWritable: Bool, of carrier: CarrierID) {
    association.carrierWritable(carrier, isWritable)
    drive()
  }

  private func closed(_ carrier: CarrierID, _ reason: String) {
    localAddresses[carrier] = nil
    guard carriers.removeValue(forKey: carrier) != nil else { return }
    association.carrierClosed(carrier, at: SessionDriver.now())
    if !hasEnded { onEvent(.carrierClosed(carrier, reason)) }
    drive()
  }
}

// MARK: Orders of the owner

extension SessionDriver {
  /// The client's handover: from now on only this carrier counts.
  package func move(to carrier: CarrierID, localAddress: IPAddress, peerAddress: IPAddress) {
    association.move(to: carrier, localAddress: localAddress, peerAddress: peerAddress, at: SessionDriver.now())
    drive()
  }

  /// Puts a first flight onto an open carrier that will reach the peer later. False: another request is out.
  package func park(on carrier: CarrierID, localAddress: IPAddress) -> Bool {
    defer { drive() }
    return association.park(on: carrier, localAddress: localAddress, at: SessionDriver.now())
  }

  /// Gives a parked first flight up; its carrier is the caller's to close.
  package func unpark() {
    association.unpark()
    drive()
  }

  package func announce(_ address: IPAddress) {
    association.announce(address, at: SessionDriver.now())
    drive()
  }

  package func withdraw(_ address: IPAddress) {
    association.withdraw(address, at: SessionDriver.now())
    drive()
  }

  /// Says something to the other end, once and without a promise: nothing is said while the send buffer is full.
  package func tell(_ message: SessionMessage) {
    guard !hasEnded else { return }
    _ = association.send(
      ByteBuffer(bytes: message.octets), stream: StreamID(0), protocolIdentifier: SessionMessage.family | UInt32(message.kind.rawValue),
      isUnordered: true, endOfWrite: true)
    drive()
  }

  /// Ends a carrier of which the owner knows that it leads nowhere; `carrierClosed` follows.
  package func close(_ carrier: CarrierID, _ reason: String) { carriers[carrier]?.close(reason) }

  package func localAddress(of carrier: CarrierID) -> IPAddress? { localAddresses[carrier] }

  package func suspendTimeouts() {
    association.suspendTimeouts()
    drive()
  }

  package func resumeTimeouts() {
    association.resumeTimeouts(at: SessionDriver.now())
    drive()
  }

  package func shutdown() {
    association.shutdown(at: SessionDriver.now())
    drive()
  }

  package func abort(_ reason: String) {
    association.abort(reason: reason, at: SessionDriver.now())
    drive()
  }
}

// MARK: The transport of the flows

extension SessionDriver: FlowTransport {
  package var space: Int { waiting.isEmpty && coding?.early == nil ? association.sendSpace : 0 }

  package func transmit(_ frame: FlowFrame, on flow: FlowID) {
    if coding?.early != nil {
      coding?.early?.append((flow, frame))
      return
    }
    switch frame {
    case .open: put(openingBody(frame, of: flow), kind: frame.kind.rawValue, endsWrite: true, on: flow)
    case .opened: put(answerBody(frame, of: flow), kind: frame.kind.rawValue, endsWrite: true, on: flow)
    case .data(let bytes):
      if let coding, coding.opened.contains(flow) { return coding.flows.send(bytes, on: flow) }
      put(bytes, kind: frame.kind.rawValue, endsWrite: bytes.readableBytes < SessionDriver.maximumDataOctets, on: flow)
    case .end:
      guard let coding else { return put(frame, on: flow) }
      coding.flows.endSending(on: flow) { put(frame, on: flow) }
    case .reset, .refused:
      put(frame, on: flow)
      coding?.flows.abandon(flow)
    case .credit: put(frame, on: flow)
    }
  }

  package func flush() {
    coding?.flows.turnEnds()
    drive()
  }

  private func put(_ frame: FlowFrame, on flow: FlowID) {
    var payload = ByteBuffer()
    frame.writeBody(into: &payload)
    if payload.readableBytes == 0 { payload.writeInteger(UInt8(0)) }  // a DATA chunk carries at least one octet (RFC 9260 section 3.3.1)
    put(payload, kind: frame.kind.rawValue, endsWrite: true, on: flow)
  }

  /// One frame becomes one message.
  func put(_ payload: ByteBuffer, kind: UInt8, endsWrite: Bool, on flow: FlowID) {
    guard !hasEnded else { return }
    let message = Message(payload: payload, kind: kind, endsWrite: endsWrite, flow: flow)
    if waiting.isEmpty, send(message) { return }
    guard waiting.count < SessionDriver.maximumWaitingFrames else {
      // A peer that opens flows without end and acknowledges nothing. Not from within a turn of the association's own.
      let bound = NIOLoopBound(self, eventLoop: loop)
      return loop.execute { bound.value.abort("too many frames wait for the peer") }
    }
    waiting.append(message)
  }

  private func send(_ message: Message) -> Bool {
    association.send(
      message.payload, stream: StreamID(UInt16(message.flow.value)),
      protocolIdentifier: SessionDriver.protocolFamily | UInt32(message.kind), endOfWrite: message.endsWrite)
  }

  private func sendWaiting() {
    while let message = waiting.first {
      guard send(message) else { return }
      waiting.removeFirst()
    }
  }
}

// MARK: The drive

extension SessionDriver {
  /// Carries out what the association wants until it wants nothing more, then sets the clock for its deadline.
  func drive() {
    guard !isDriving else { return }
    isDriving = true
    repeat {
      while let effect = association.nextEffect(at: SessionDriver.now()) { carryOut(effect) }
      if !waiting.isEmpty { sendWaiting() }
    } while resetStreams() || serveStarved()
    isDriving = false
    for id in unflushed { carriers[id]?.flush() }
    unflushed.removeAll(keepingCapacity: true)
    timer.set(hasEnded ? nil : association.deadline)
  }

  /// Has the streams of closed flows begin anew, so that their numbers can be used again; true if the association has work by that. Frames of those flows go first.
  private func resetStreams() -> Bool {
    guard hub.hasChannelsToReset || coding?.released.isEmpty == false, waiting.isEmpty, !hasEnded, association.state == .established else {
      return false
    }
    let ids = takeStreamsToReset()
    guard !ids.isEmpty else { return false }
    if association.resetStreams(ids.map { StreamID(UInt16($0.value)) }) { return true }
    hub.reuseWithoutReset(ids)
    return false
  }

  /// Lets the flows go on that found the send buffer full; true if that may have given the association work.
  private func serveStarved() -> Bool {
    guard hub.isStarved, !hasEnded, space >= SessionDriver.leastSpace else { return false }
    hub.transportHasSpace()
    return true
  }

  private func carryOut(_ effect: Effect) {
    switch effect {
    case .transmit(let packet, let id):
      guard let carrier = carriers[id] else { return }
      carrier.write(packet)
      if unflushed.insert(id).inserted == false, !carrier.isWritable { association.carrierWritable(id, false) }
      if !carrier.isWritable { association.carrierWritable(id, false) }
    case .deliver(let stream, let identifier, let payload): deliver(payload, identifier: identifier, stream: stream)
    case .sendSpace: break  // `drive` looks after every burst of effects
    case .closeCarrier(let id, let reason):
      localAddresses[id] = nil
      carriers.removeValue(forKey: id)?.closeAfterFlush(reason)
      onEvent(.carrierClosed(id, reason))
    case .established:
      offerCodec()
      onEvent(.established)
    case .moved(let id):
      onEvent(.moved(id))
    case .peerAnnounced(let address): onEvent(.peerAnnounced(address))
    case .peerWithdrew(let address): onEvent(.peerWithdrew(address))
    case .announced(let address): onEvent(.announced(address))
    case .withdrawn(let address): onEvent(.withdrawn(address))
    case .announcementRefused(let address, let reason): onEvent(.announcementRefused(address, reason))
    case .carrierSilent(let id): onEvent(.carrierSilent(id))
    case .roundTrip(let id, let span):
      if id == association.activeCarrier { roundTrip = span }
      onEvent(.roundTrip(id, span))
    case .streamsReset(let direction, let streams): streamsReset(direction, streams)
    case .streamsNotReset(let streams, let reason):
      logger.info("the peer has not reset \(streams.count) streams: \(reason)")
      hub.reuseWithoutReset(streams.map { FlowID(UInt32($0.value)) })
    case .streamsAdded, .streamRequestRefused, .abandoned: break  // never asked for
    case .pathChanged, .packetSizeChanged, .restarted, .peerReported: break  // of datagram carriers, which a session does not use yet
    case .closed: end(nil)
    case .failed(let error): end("\(error)")
    }
  }

  private func streamsReset(_ direction: StreamDirection, _ streams: [StreamID]) {
    let ids = streams.map { FlowID(UInt32($0.value)) }
    guard direction == .incoming else { return hub.channelsReset(outgoing: ids) }
    forgetCoded(ids)
    do throws(FlowViolation) { try hub.channelsReset(incoming: ids) } catch { violate(error) }
  }

  func violate(_ violation: FlowViolation) {
    logger.warning("session aborted: \(violation)")
    association.abort(reason: "\(violation)", at: SessionDriver.now())
  }

  private func deliver(_ payload: ByteBuffer, identifier: UInt32, stream: StreamID) {
    if identifier & 0xffff_ff00 == SessionMessage.family {
      guard let message = SessionMessage(identifier: identifier, payload: payload) else { return }
      if message.kind == .codec { CodecOffer(message.octets).map { take($0) } } else { onEvent(.told(message)) }
      return
    }
    do throws(FlowViolation) {
      guard identifier & 0xffff_0000 == SessionDriver.protocolFamily else { throw .unknownKind(identifier) }
      try deliver(payload, kind: UInt8(truncatingIfNeeded: identifier), identifier, on: FlowID(UInt32(stream.value)))
    } catch {
      violate(error)
    }
  }

  private func deliver(_ payload: ByteBuffer, kind number: UInt8, _ identifier: UInt32, on id: FlowID) throws(FlowViolation) {
    if coding != nil, let kind = CodedFrame.Kind(rawValue: number), try takeCoded(kind, payload, on: id) { return }
    guard let kind = FlowFrame.Kind(rawValue: number) else { throw .unknownKind(identifier) }
    guard let coding else { return try hub.receive(FlowFrame(kind: kind, body: payload), on: id) }
    var body = payload
    switch kind {
    case .open: guard takeOpening(&body, of: id) else { return }
    case .opened: takeAnswer(&body, of: id)
    case .end: return coding.flows.receiveEnd(on: id)
    case .refused, .reset, .data, .credit: break
    }
    try hub.receive(FlowFrame(kind: kind, body: body), on: id)
    if kind == .refused || kind == .reset { coding.flows.abandon(id) }
  }

  private func end(_ reason: String?) {
    guard !hasEnded else { return }
    hasEnded = true
    waiting.removeAll()
    coding?.flows.abandonAll()
    hub.transportLost(.lost)
    timer.set(nil)
    for id in carriers.keys.sorted(by: { $0.value < $1.value }) { carriers[id]?.closeAfterFlush(reason ?? "the session has ended") }
    onEvent(.ended(reason))
  }

  private func ring() {
    association.handleDeadline(at: SessionDriver.now())
    drive()
  }
}
