import DequeModule
import NIOCore
import Vocabulary

/// One end of an SCTP association whose packets travel on carriers: reliable ones (TCP) or datagrams (UDP). See the folder's README.
///
/// Bytes and time go in, effects come out of `nextEffect`. It never sleeps, logs, or asks for the time. An active association begins with
/// `init(connecting:)`, a passive one comes out of `Listener`.
package struct Association: Sendable {
  package enum State: Sendable, Hashable {
    case cookieWait, cookieEchoed, established
    case shutdownPending, shutdownSent, shutdownReceived, shutdownAckSent
    case closed
  }

  package internal(set) var state: State
  package internal(set) var statistics = AssociationStatistics()
  /// Grows with each move of this association.
  package internal(set) var epoch: UInt64 = 0
  package internal(set) var localVerificationTag: UInt32
  package internal(set) var localAddresses: [IPAddress]
  package internal(set) var peerAddresses: [IPAddress] = []
  /// The carrier that DATA goes out on and comes in on; nil while there is none.
  package internal(set) var activeCarrier: CarrierID?

  var configuration: AssociationConfiguration
  /// Called for handshakes and ASCONF, not for each packet of data. An association that was generic over it paid more than that call everywhere: the code of generic types is shared between modules.
  let authenticator: any Authenticator
  var random: any RandomNumberGenerator & Sendable
  var header: PacketHeader
  var key: [UInt8] = []
  var ourRandom: [UInt8] = []
  var carriers: [CarrierID: CarrierState] = [:]
  var effects: Deque<Effect> = []
  var timers = Timers()
  var isSuspended = false

  // Handshake
  var cookie: ByteBuffer?
  var handshakeTries = 0
  var ourInitialTSN: TSN
  /// What the peer offered and we use.
  var algorithm: HMACAlgorithm?
  var usesAuthentication: Bool { algorithm != nil }
  var usesReconfiguration = false
  /// I-DATA in the place of DATA, both ways (RFC 8260).
  package internal(set) var usesInterleaving = false
  /// RE-CONFIG (RFC 6525).
  package internal(set) var usesStreamReset = false
  /// FORWARD-TSN (RFC 3758), or I-FORWARD-TSN.
  package internal(set) var usesPartialReliability = false
  /// The peer wants more than COOKIE ECHO and ASCONF authenticated, so every packet is.
  var authenticatesAll = false
  /// Streams that the peer takes.
  package internal(set) var peerInboundStreams: UInt16 = 65_535
  /// Streams on which the peer may send.
  package internal(set) var inboundStreams: UInt16 = 65_535

  // Sending
  var nextTSN: TSN
  var peerCumulativeAck: TSN
  var peerWindow = 0
  /// What has no TSN yet.
  var queue: SendQueue
  var sent: Deque<SentChunk> = []
  /// Chunks of `sent` that are lost and not yet sent again; none of them is before `lostCursor`.
  var lostCount = 0
  var lostCursor = TSN(0)
  /// Set by a switch: once the packet that asked for it has been read to its end (its SACK too), what is unacknowledged is lost.
  var isLosingInFlight = false
  var octetsInFlight = 0
  /// Chunks of `sent` that only gap blocks acknowledge.
  var gapAcknowledged = 0
  /// Numbers every transmission, so that of two chunks the later sent one is known.
  var transmissionOrder: UInt64 = 0
  var fragmentLimit = 0
  var octetsQueued = 0
  var sendWasRefused = false

  // Partial reliability
  /// Some message was sent with limits.
  var limitsReliability = false
  /// Everything up to here is acknowledged or given up (Advanced.Peer.Ack.Point of RFC 3758).
  var advancedAck = TSN(0)
  var forwardIsDue = false

  // Receiving
  var inbound: Reassembly
  var duplicates: [TSN] = []
  var packetsSinceSACK = 0
  var sackIsDue = false

  // Mobility
  var nextSerialToSend: ASCONFSerial
  var nextSerialToReceive: ASCONFSerial
  var requests: Deque<AddressRequest> = []
  var outstanding: OutstandingRequest?
  var lastAck: (serial: ASCONFSerial, chunk: ByteBuffer)?
  var acksToSend: Deque<(chunk: ByteBuffer, carrier: CarrierID)> = []
  /// Where a first flight is parked: it reaches the peer when the peer can be reached there, and the move is then its doing.
  var parkedCarrier: CarrierID?
  /// Where DATA shall go as soon as a path there has been confirmed: the peer has asked for it (Set-Primary), or our owner.
  var preferredAddress: IPAddress?
  /// After a move, nothing but ASCONF leaves until the peer has acknowledged it (RFC 5061 section 5.3, F1).
  var awaitsMoveAck = false

  // Streams
  var streamRequests = StreamRequests()

  // Datagram paths
  var hasDatagramCarrier = false
  var associationErrors = 0
  /// Where the latest DATA came from: its SACK goes there (RFC 9260 section 6.4).
  var lastDataCarrier: CarrierID?
  /// Causes to report in ERROR chunks, at most `maximumErrors`.
  var errorsToSend: Deque<(cause: ByteBuffer, carrier: CarrierID)> = []
  static var maximumErrors: Int { 8 }
  /// HEARTBEAT ACKs, and ASCONF-ACKs said again, that wait for a carrier to take them: a correct peer has one of each under way.
  static var maximumAnswers: Int { 8 }

  // Heartbeats
  var heartbeat: (nonce: UInt64, sentAt: Instant)?
  var lastHeard: Instant
  var heartbeatAcks: Deque<(info: ByteBuffer, carrier: CarrierID)> = []

  // Shutdown
  var shutdownTries = 0
  var controlDue: Set<ChunkType> = []

  struct CarrierState: Sendable {
    var local: IPAddress
    var remote: IPAddress
    var isWritable = true
    /// Octets of DATA that have gone out on it.
    var octetsCarried = 0
    /// Nil for a reliable carrier.
    var path: PathState?
  }

  struct SentChunk: Sendable {
    var tsn: TSN
    var chunk: OutboundChunk
    var carrier: CarrierID
    var sentAt: Instant
    var order: UInt64
    var transmissions: UInt8 = 1
    var missingReports: UInt8 = 0
    var wasFastRetransmitted = false
    var isAcknowledged = false
    var isLost = false
    /// It has been given up; the peer is told to go on without it.
    var isAbandoned = false

    var isOnTheWay: Bool { !isAcknowledged && !isLost && !isAbandoned }
  }

  struct Timers: Sendable {
    var handshake: Instant?
    var sack: Instant?
    var heartbeat: Instant?
    var shutdown: Instant?
    var withoutCarrier: Instant?
    /// T4-rto: an ASCONF on a datagram carrier goes out again.
    var request: Instant?
    /// A RE-CONFIG goes out again.
    var streamRequest: Instant?
    /// FORWARD-TSN goes out again.
    var forward: Instant?

    var next: Instant? {
      var soonest = handshake
      func consider(_ timer: Instant?) { if let timer, soonest.map({ timer < $0 }) ?? true { soonest = timer } }
      consider(sack)
      consider(heartbeat)
      consider(shutdown)
      consider(withoutCarrier)
      consider(request)
      consider(streamRequest)
      consider(forward)
      return soonest
    }
  }
}

/// A DATA or I-DATA chunk, all but its TSN.
struct OutboundChunk: Sendable {
  var stream: StreamID
  /// I, U, B and E bits (RFC 9260 section 3.3.1).
  var flags: UInt8
  /// The SSN in its lower half, or the MID.
  var identifier: UInt32
  /// Counts the fragments of a message from zero (the FSN of RFC 8260).
  var fragment: UInt32
  var protocolIdentifier: UInt32
  var reliability: Reliability
  var payload: ByteBuffer

  var isUnordered: Bool { flags & DataFlags.unordered != 0 }
  var begins: Bool { flags & DataFlags.beginning != 0 }
}

enum DataFlags {
  static let end: UInt8 = 1
  static let beginning: UInt8 = 2
  static let unordered: UInt8 = 4
  static let immediate: UInt8 = 8
}

// MARK: - Beginning

extension Association {
  /// The active side: INIT goes out on `carrier`.
  package init(
    connecting configuration: AssociationConfiguration, authenticator: any Authenticator, random: any RandomNumberGenerator & Sendable,
    on carrier: CarrierID,
    local: IPAddress, remote: IPAddress, kind: CarrierKind = .reliable, at now: Instant
  ) {
    var random = random
    let tag = UInt32.random(in: 1...UInt32.max, using: &random)
    let tsn = TSN(UInt32.random(in: 0...UInt32.max, using: &random))
    ourRandom = (0..<Authentication.randomLength).map { _ in UInt8.random(in: 0...255, using: &random) }
    self.configuration = configuration
    self.authenticator = authenticator
    self.random = random
    state = .cookieWait
    localVerificationTag = tag
    localAddresses = configuration.localAddresses.isEmpty ? [local] : configuration.localAddresses
    header = PacketHeader(sourcePort: configuration.port, destinationPort: configuration.peerPort ?? configuration.port, verificationTag: 0)
    ourInitialTSN = tsn
    nextTSN = tsn
    peerCumulativeAck = tsn.previous
    queue = SendQueue(configuration.scheduler)
    inbound = Reassembly(after: TSN(0), limit: configuration.receiveWindow.octets)
    nextSerialToSend = ASCONFSerial(tsn.value)
    nextSerialToReceive = ASCONFSerial(0)
    lastHeard = now
    activeCarrier = carrier
    peerAddresses = [remote]
    controlDue = [.initiation]
    addCarrier(carrier, local: local, remote: remote, kind: kind, status: .active, at: now)
    timers.handshake = now + handshakeInterval
  }

  /// The passive side, out of a valid COOKIE ECHO. What else stands in its packet (DATA may) is processed too.
  init(
    accepting configuration: AssociationConfiguration, cookie: Cookie, key: [UInt8], authenticator: any Authenticator, header: PacketHeader,
    random: SeededGenerator,
    on carrier: CarrierID, local: IPAddress, remote: IPAddress, kind: CarrierKind, packet: Packet, from index: Int, at now: Instant
  ) {
    self.configuration = configuration
    self.authenticator = authenticator
    self.random = random
    state = .established
    localVerificationTag = cookie.ours.tag
    localAddresses = configuration.localAddresses.isEmpty ? [local] : configuration.localAddresses
    self.header = header
    self.key = key
    ourRandom = cookie.ourRandom
    ourInitialTSN = cookie.ours.initialTSN
    nextTSN = cookie.ours.initialTSN
    peerCumulativeAck = cookie.ours.initialTSN.previous
    peerWindow = Int(cookie.peer.receiveWindow)
    queue = SendQueue(configuration.scheduler)
    inbound = Reassembly(after: cookie.peer.initialTSN.previous, limit: configuration.receiveWindow.octets)
    nextSerialToSend = ASCONFSerial(cookie.ours.initialTSN.value)
    nextSerialToReceive = ASCONFSerial(cookie.peer.initialTSN.value)
    lastHeard = now
    activeCarrier = carrier
    peerAddresses = cookie.peer.addresses.isEmpty ? [remote] : cookie.peer.addresses
    controlDue = [.cookieAck]
    addCarrier(carrier, local: local, remote: remote, kind: kind, status: .active, at: now)
    adopt(cookie.peer)
    effects.append(.established)
    startKeepingAlive(at: now)
    process(packet, from: index, on: carrier, isAuthenticated: index > 1, at: now)
  }
}

// MARK: - Ask it

extension Association {
  package var deadline: Instant? {
    guard state != .closed else { return nil }
    guard hasDatagramCarrier else { return timers.next }
    return carriers.values.reduce(timers.next) { soonest, carrier in
      guard let at = carrier.path?.deadline else { return soonest }
      return soonest.map { min($0, at) } ?? at
    }
  }

  /// Octets that `send` takes now.
  package var sendSpace: Int {
    guard state == .established || state == .cookieWait || state == .cookieEchoed else { return 0 }
    return max(0, configuration.sendBuffer.octets - octetsQueued)
  }

  /// Streams of which something is kept, both directions together: a number other than zero, or messages.
  package var streamsKept: Int { queue.streams.count + inbound.streamsKept }

  /// Octets that wait for the peer's acknowledgement, sent or not.
  package var unacknowledged: Int { octetsQueued }
}

// MARK: - Tell it

extension Association {
  package mutating func carrierOpened(
    _ id: CarrierID, local: IPAddress, remote: IPAddress, kind: CarrierKind = .reliable, at now: Instant
  ) {
    guard state != .closed, carriers[id] == nil else { return }
    guard carriers.count < configuration.maximumCarriers else {
      effects.append(.closeCarrier(id, reason: "too many carriers in this session"))
      return
    }
    addCarrier(id, local: local, remote: remote, kind: kind, status: .unconfirmed, at: now)
    if isPastHandshake { carriers[id]?.path?.heartbeatTimer = now }
  }

  mutating func addCarrier(
    _ id: CarrierID, local: IPAddress, remote: IPAddress, kind: CarrierKind, status: PathStatus, at now: Instant
  ) {
    carriers[id] = CarrierState(local: local, remote: remote)
    if case .datagram(let mtu) = kind {
      hasDatagramCarrier = true
      let path = PathState(
        mtu: mtu, discoversMTU: configuration.features.pathMTUDiscovery, status: status, limits: configuration.paths, at: now)
      carriers[id]?.path = path
    }
    refreshFragmentLimit()
  }

  /// Its outstanding chunks are lost, at once and without a charge: they go out again on the next active carrier.
  package mutating func carrierClosed(_ id: CarrierID, at now: Instant) {
    if carriers.removeValue(forKey: id)?.path != nil { loseAll(ofClosed: id) }
    if id == parkedCarrier { unpark() }
    acksToSend.removeAll { $0.carrier == id }
    heartbeatAcks.removeAll { $0.carrier == id }
    guard id == activeCarrier, state != .closed else { return }
    activeCarrier = nil
    heartbeat = nil
    timers.heartbeat = nil
    if state == .cookieWait || state == .cookieEchoed { return fail(.carrierLostInHandshake) }
    activeCarrier = sortedCarriers.first { carriers[$0]?.path?.status == .active }
    if activeCarrier != nil { return }
    timers.withoutCarrier = now + configuration.lifetimeWithoutCarrier
  }

  package mutating func carrierWritable(_ id: CarrierID, _ isWritable: Bool) { carriers[id]?.isWritable = isWritable }

  /// The endpoint pair shared key, where it comes out of an exchange that ends while INIT is out already. It is needed from INIT ACK on.
  package mutating func provide(endpointKey: [UInt8]) {
    guard state == .cookieWait else { return }  // it has failed meanwhile
    configuration.endpointKey = endpointKey
  }

  /// FREEZE: no verdict on a silent peer until `resumeTimeouts`.
  package mutating func suspendTimeouts() { isSuspended = true }

  package mutating func resumeTimeouts(at now: Instant) {
    guard isSuspended else { return }
    isSuspended = false
    lastHeard = now
  }

  package mutating func abort(reason: String, at now: Instant) {
    guard state != .closed else { return }
    if let carrier = activeCarrier, state != .cookieWait {
      var builder = PacketBuilder(header)
      builder.append(.abort) { $0.writeAbortCause(reason) }
      transmit(builder.finish(), on: carrier)
    }
    fail(.aborted(reason))
  }

  package mutating func shutdown(at now: Instant) {
    switch state {
    case .cookieWait, .cookieEchoed: fail(.aborted("shut down before it was established"))
    case .established:
      state = .shutdownPending
      advanceShutdown(at: now)
    case .shutdownPending, .shutdownSent, .shutdownReceived, .shutdownAckSent, .closed: return
    }
  }

  mutating func fail(_ error: AssociationError) {
    guard state != .closed else { return }
    state = .closed
    effects.append(.failed(error))
  }
}

// MARK: - Time

extension Association {
  /// Each timer expires at most once a call, however far the clock has jumped (a paused machine's does).
  package mutating func handleDeadline(at now: Instant) {
    guard state != .closed else { return }
    if expire(\.handshake, at: now) { retryHandshake(at: now) }
    if expire(\.sack, at: now) { sackIsDue = true }
    if expire(\.request, at: now), outstanding != nil {
      outstanding?.mustSend = true
      if let active = activeCarrier {
        backOff(active)
        charge(active, at: now)
      }
    }
    if expire(\.streamRequest, at: now) { retryStreamRequest(at: now) }
    if expire(\.forward, at: now) { retryForward(at: now) }
    handlePathDeadlines(at: now)
    guard state != .closed else { return }
    let lateness = timers.heartbeat.map { now - $0 } ?? .zero
    if expire(\.heartbeat, at: now) {
      if lateness > configuration.heartbeatInterval { lastHeard = now }  // the clock has jumped: silence begins anew
      beat(at: now)
    }
    if expire(\.shutdown, at: now) { retryShutdown(at: now) }
    let late = timers.withoutCarrier.map { now - $0 } ?? .zero
    if expire(\.withoutCarrier, at: now) {
      // A machine that stood still has kept its peer from coming back: it gets the time again.
      if isSuspended || late > configuration.heartbeatInterval {
        timers.withoutCarrier = now + configuration.lifetimeWithoutCarrier
      } else {
        fail(.noCarrier)
      }
    }
  }

  private mutating func expire(_ timer: WritableKeyPath<Timers, Instant?>, at now: Instant) -> Bool {
    guard let at = timers[keyPath: timer], at <= now else { return false }
    timers[keyPath: timer] = nil
    return true
  }

  private mutating func beat(at now: Instant) {
    guard let carrier = activeCarrier, state != .cookieWait, state != .cookieEchoed else { return }
    timers.heartbeat = now + configuration.heartbeatInterval
    if heartbeat != nil {
      // A HEARTBEAT precedes the verdict, and after a jump of the clock the peer gets the whole limit again from `lastHeard` on.
      if !isSuspended, now - lastHeard >= configuration.silenceLimit {
        effects.append(.carrierSilent(carrier))
        lastHeard = now
      }
      return
    }
    heartbeat = (random.next(), now)
    controlDue.insert(.heartbeat)
    if now - lastHeard > configuration.silenceLimit { lastHeard = now }
  }
}
