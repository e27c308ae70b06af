import NIOCore
import Vocabulary

/// The paths of a datagram association: which one takes the next packet, HEARTBEAT on each, and the verdict on those that do not answer
/// (RFC 9260 sections 5.4, 6.4 and 8).
extension Association {
  /// Carriers in the order of their names: nothing depends on the order of a dictionary.
  var sortedCarriers: [CarrierID] {
    carriers.count == 1 ? Array(carriers.keys) : carriers.keys.sorted { $0.value < $1.value }
  }

  /// The association's packets travel as datagrams.
  var isOnDatagrams: Bool { activeCarrier.flatMap { carriers[$0]?.path } != nil }

  package func status(of id: CarrierID) -> PathStatus? { carriers[id]?.path?.status }
  package func smoothedRoundTrip(of id: CarrierID) -> TimeSpan? { carriers[id]?.path?.smoothedRTT }
  package func congestionWindow(of id: CarrierID) -> Int? { carriers[id]?.path?.window }

  /// Octets that a packet on this carrier may have.
  @inline(__always)
  func packetLimit(of id: CarrierID) -> Int {
    min(configuration.maximumPacketSize, carriers[id]?.path?.mtu ?? configuration.maximumPacketSize)
  }

  /// Octets that a packet with DATA may have: less on a young carrier.
  @inline(__always)
  func dataPacketLimit(of id: CarrierID) -> Int {
    let limit = packetLimit(of: id)
    guard let carrier = carriers[id], carrier.path == nil, carrier.octetsCarried < configuration.youngCarrierOctets else { return limit }
    return min(limit, configuration.youngPacketSize)
  }

  /// The smallest limit of all paths that work: a fragment must fit wherever it may go (RFC 9260 section 6.9). Nothing is known of one that does not.
  mutating func refreshFragmentLimit() {
    let paths = carriers.values.compactMap(\.path)
    let smallest = paths.filter { $0.status == .active }.map(\.mtu).min() ?? paths.map(\.mtu).min() ?? configuration.maximumPacketSize
    fragmentLimit = min(smallest, configuration.maximumPacketSize)
  }

  /// A path to the peer's address for new data: the primary, unless it has failed and another has not.
  @inline(__always)
  var newDataCarrier: CarrierID? {
    guard let active = activeCarrier, let path = carriers[active]?.path, path.status == .failed else { return activeCarrier }
    return anotherCarrier ?? active
  }

  private var anotherCarrier: CarrierID? { sortedCarriers.first { carriers[$0]?.path?.status == .active } }

  /// Where lost chunks go: another path if this one's timer has just expired (RFC 9260 section 6.4.1).
  var lostDataCarrier: CarrierID? {
    guard let usual = newDataCarrier, let path = carriers[usual]?.path, path.errors > 0 else { return newDataCarrier }
    return sortedCarriers.first { carriers[$0]?.path.map { $0.status == .active && $0.errors == 0 } == true } ?? usual
  }

  mutating func backOff(_ id: CarrierID) {
    let limits = configuration.paths
    carriers[id]?.path?.backOff(limits)
  }

  /// An event: so many packets of DATA may follow it.
  mutating func allowBurst(on id: CarrierID) {
    let limit = configuration.paths.maximumBurst
    carriers[id]?.path?.burst = limit
  }

  // MARK: Errors

  /// A packet on this path was not answered in time.
  mutating func charge(_ id: CarrierID, at now: Instant) {
    guard var path = carriers[id]?.path else { return }
    path.errors += 1
    if path.status != .unconfirmed { associationErrors += 1 }  // an address that never answered says nothing of the peer (section 5.4)
    if path.status == .active, path.errors > configuration.paths.pathRetransmissions {
      path.status = .failed
      effects.append(.pathChanged(id, .failed))
    }
    carriers[id]?.path = path
    if path.status == .failed { refreshFragmentLimit() }
    guard associationErrors > configuration.paths.associationRetransmissions else { return }
    if isSuspended { associationErrors = configuration.paths.associationRetransmissions } else { fail(.peerUnreachable) }
  }

  /// A request beside the DATA was not answered in time. While DATA is on its way its T3 judges the path: two clocks would count each silence twice.
  mutating func chargeUnanswered(at now: Instant) {
    guard let active = activeCarrier, let path = carriers[active]?.path, path.retransmission == nil else { return }
    backOff(active)
    charge(active, at: now)
  }

  /// Fragments are cut for the smallest path. Those that were cut before, for a larger one, have their TSNs: they leave as they are, and IP has to cut them
  /// (RFC 9260 section 7.3); so an owner forbids that for probes only, see `DatagramEndpoint.isProbe`.
  mutating func packetSizeChanged(on id: CarrierID) {
    refreshFragmentLimit()
    if let octets = carriers[id]?.path?.mtu { effects.append(.packetSizeChanged(id, octets: octets)) }
  }

  /// The peer has no room and says so: what it does not take is no error of any path, however often it is tried (RFC 9260 section 6.1, rule A).
  mutating func forgiveErrors() {
    associationErrors = 0
    for id in sortedCarriers where (carriers[id]?.path?.inFlight ?? 0) > 0 { carriers[id]?.path?.errors = 0 }
  }

  mutating func revive(_ id: CarrierID, _ path: inout PathState, at now: Instant) {
    path.status = .active
    path.packetSize.begin(at: now)
    effects.append(.pathChanged(id, .active))
  }

  // MARK: Time

  /// Each timer of each path expires at most once.
  mutating func handlePathDeadlines(at now: Instant) {
    guard hasDatagramCarrier else { return }
    for id in sortedCarriers {
      guard state != .closed, let path = carriers[id]?.path else { continue }
      allowBurst(on: id)
      if let at = path.retransmission, at <= now {
        carriers[id]?.path?.retransmission = nil
        loseAll(on: id, at: now)
      }
      if let at = path.heartbeatTimer, at <= now, state != .closed { beat(on: id, at: now) }
      if let at = path.packetSize.timer, at <= now, carriers[id]?.path?.packetSize.expire(at: now) == true { packetSizeChanged(on: id) }
    }
  }

  /// The period is HB.interval plus the RTO, varied by half of that (RFC 9260 section 8.3); an unconfirmed path is asked every RTO.
  mutating func scheduleHeartbeat(on id: CarrierID, at now: Instant) {
    guard let path = carriers[id]?.path else { return }
    let jitter = Int64.random(in: -500...500, using: &random)
    let interval = path.status == .active ? configuration.paths.heartbeatInterval : .zero
    carriers[id]?.path?.heartbeatTimer = now + interval + path.rto + path.rto / 1_000 * jitter
  }

  private mutating func beat(on id: CarrierID, at now: Instant) {
    guard var path = carriers[id]?.path, isPastHandshake else {
      carriers[id]?.path?.heartbeatTimer = nil
      return
    }
    if path.heartbeat != nil {  // the last one was not answered
      path.heartbeat = nil
      path.backOff(configuration.paths)
      carriers[id]?.path = path
      charge(id, at: now)
      if state == .closed { return }
    }
    // A path with data on the way is measured by it.
    if path.status != .active || path.inFlight == 0 {
      let nonce = random.next()
      carriers[id]?.path?.heartbeat = (nonce, now)
      carriers[id]?.path?.isHeartbeatDue = true
    }
    scheduleHeartbeat(on: id, at: now)
  }

  /// All paths are asked at once when the handshake is done: the first one is confirmed by it (RFC 9260 section 5.4).
  mutating func startHeartbeats(at now: Instant) {
    for id in sortedCarriers {
      guard let path = carriers[id]?.path else { continue }
      if path.status == .unconfirmed {
        carriers[id]?.path?.heartbeatTimer = now
      } else {
        scheduleHeartbeat(on: id, at: now)
        carriers[id]?.path?.packetSize.begin(at: now)
      }
    }
  }

  /// The nonce has come back on some carrier: the path it was sent on works.
  mutating func receivePathHeartbeatAck(_ nonce: UInt64, at now: Instant) {
    for id in sortedCarriers {
      if carriers[id]?.path?.packetSize.acknowledge(nonce, at: now) == true { packetSizeChanged(on: id) }
      guard var path = carriers[id]?.path, let heartbeat = path.heartbeat, heartbeat.nonce == nonce else { continue }
      path.heartbeat = nil
      path.errors = 0
      associationErrors = 0
      path.measure(now - heartbeat.sentAt, configuration.paths)
      if path.status != .active { revive(id, &path, at: now) }
      carriers[id]?.path = path
      refreshFragmentLimit()
      if id == activeCarrier { hurryRequests(afterRTO: path.rto, at: now) }
      effects.append(.roundTrip(id, now - heartbeat.sentAt))
    }
    adoptPreferred()
  }

  /// The path works (again): what was asked in vain is not put off for as long as it had come to. A move that waits for its answer acknowledges no DATA, and the peer would give us up.
  private mutating func hurryRequests(afterRTO rto: TimeSpan, at now: Instant) {
    if let at = timers.request, at > now + rto { timers.request = now }
    if let at = timers.streamRequest, at > now + rto { timers.streamRequest = now }
    if let at = timers.forward, at > now + rto { timers.forward = now }
  }

  mutating func pathHeartbeatPacket(at now: Instant) -> Effect? {
    guard hasDatagramCarrier else { return nil }
    for id in sortedCarriers where carriers[id]?.path?.isHeartbeatDue == true {
      carriers[id]?.path?.isHeartbeatDue = false
      guard let nonce = carriers[id]?.path?.heartbeat?.nonce else { continue }
      var builder = startPacket()
      builder.append(.heartbeat) { bytes in bytes.writeParameter(ParameterType.heartbeatInfo) { $0.writeInteger(nonce) } }
      return .transmit(finish(builder), on: id)
    }
    guard configuration.features.pathMTUDiscovery, isPastHandshake else { return nil }
    for id in sortedCarriers where carriers[id]?.path?.packetSize.isDue == true { return probePacket(on: id, at: now) }
    return nil
  }

  private mutating func probePacket(on id: CarrierID, at now: Instant) -> Effect? {
    guard let path = carriers[id]?.path else { return nil }
    let nonce = random.next()
    carriers[id]?.path?.packetSize.sent(nonce, rto: path.rto, at: now)
    var builder = startPacket()
    builder.append(.heartbeat) { bytes in bytes.writeParameter(ParameterType.heartbeatInfo) { $0.writeInteger(nonce) } }
    let rest = path.packetSize.candidate - builder.length - 4
    builder.append(.padding) { $0.writeRepeatingByte(0, count: rest) }
    return .transmit(finish(builder), on: id)
  }

  var isPastHandshake: Bool { state != .cookieWait && state != .cookieEchoed && state != .closed }
}
