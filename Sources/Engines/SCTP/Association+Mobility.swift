import NIOCore
import Vocabulary

/// What one ASCONF asks for.
enum AddressRequest: Sendable, Equatable {
  case announce(IPAddress)
  case withdraw(IPAddress)
  /// A move: the address, if the peer does not know it yet, and that it is primary now.
  case move(CarrierID, local: IPAddress)
}

/// The one ASCONF that waits for its ASCONF-ACK (RFC 5061 section 5.1). It is sent again byte for byte.
struct OutstandingRequest: Sendable {
  var serial: ASCONFSerial
  var request: AddressRequest
  var chunk: ByteBuffer
  /// It has to be sent, for the first time or again after its carrier went.
  var mustSend: Bool
}

// MARK: - Asking the peer

extension Association {
  /// Tells the peer of an address that will answer later (ASCONF Add-IP). `.announced` follows, or `.announcementRefused`.
  package mutating func announce(_ address: IPAddress, at now: Instant) {
    guard state == .established, usesReconfiguration, !localAddresses.contains(address),
      requests.count < configuration.maximumQueuedRequests
    else { return }
    localAddresses.append(address)
    requests.append(.announce(address))
  }

  /// Takes an address back (ASCONF Delete-IP). The last one stays, and so does the one in use (RFC 5061 section 5.3, F5 to F8).
  package mutating func withdraw(_ address: IPAddress, at now: Instant) {
    guard state == .established, usesReconfiguration, localAddresses.count > 1, localAddresses.contains(address),
      requests.count < configuration.maximumQueuedRequests, !(isOnDatagrams && activeCarrier.flatMap { carriers[$0]?.local } == address)
    else { return }
    localAddresses.removeAll { $0 == address }
    requests.append(.withdraw(address))
  }

  /// The handover of the side that dials: from now on only `carrier` counts. Its first packet carries AUTH, ASCONF and the SACK state; what was
  /// lost follows the ASCONF-ACK. May be called again, with another carrier, at any time.
  package mutating func move(to carrier: CarrierID, localAddress: IPAddress, peerAddress: IPAddress, at now: Instant) {
    guard state != .closed, state != .cookieWait, state != .cookieEchoed, carriers[carrier] != nil else { return }
    parkedCarrier = nil
    for id in carriers.keys.sorted(by: { $0.value < $1.value }) where id != carrier { fence(id, "the session has moved") }
    activeCarrier = carrier
    if let path = carriers[carrier]?.path, path.status == .unconfirmed {
      // A peer that did not know our address has answered no HEARTBEAT from there: it is asked again behind the ASCONF, and what that cost is forgotten.
      var again = PathState(mtu: path.mtu, status: .unconfirmed, limits: configuration.paths, at: now)
      again.heartbeatTimer = now
      carriers[carrier]?.path = again
    }
    timers.withoutCarrier = nil
    timers.heartbeat = now + configuration.heartbeatInterval
    heartbeat = nil
    lastHeard = now
    if !peerAddresses.contains(peerAddress) { peerAddresses.append(peerAddress) }
    // A move that waits is replaced; one that is out must be acknowledged first, and is sent again on the new carrier.
    requests.removeAll { if case .move = $0 { true } else { false } }
    requests.prepend(.move(carrier, local: localAddress))
    outstanding?.mustSend = true
    if outstanding == nil { beginNextRequest() }
    awaitsMoveAck = true
  }

  /// Puts a first flight onto a carrier that does not reach the peer yet: someone beside its future place holds the flight until it is there.
  ///
  /// The active carrier goes on meanwhile; the move is complete when the peer's answer comes on the parked one. What the flight's SACK says is old by then, and the peer
  /// goes by what it heard on the active carrier: it sends again what was under way in the last round trip there, at most. False, and nothing is sent, while
  /// another ASCONF is out.
  package mutating func park(on carrier: CarrierID, localAddress: IPAddress, at now: Instant) -> Bool {
    guard state == .established, carrier != activeCarrier, carriers[carrier] != nil, parkedCarrier == nil, outstanding == nil,
      requests.isEmpty
    else { return false }
    requests.append(.move(carrier, local: localAddress))
    beginNextRequest()
    parkedCarrier = carrier
    if let packet = requestPacket(on: carrier, withSACK: true, at: now) { effects.append(packet) }
    sackIsDue = sackIsDue || packetsSinceSACK > 0
    return true
  }

  /// Gives a parked flight up. Its ASCONF goes out on the active carrier, where it changes nothing, so that the serial numbers stay in step.
  package mutating func unpark() {
    guard parkedCarrier != nil else { return }
    parkedCarrier = nil
    outstanding?.mustSend = true
  }

  /// The peer has answered the parked flight: it has switched, and so do we.
  mutating func takeParked(at now: Instant) {
    guard let carrier = parkedCarrier else { return }
    parkedCarrier = nil
    for id in carriers.keys.sorted(by: { $0.value < $1.value }) where id != carrier { fence(id, "the session has moved") }
    activeCarrier = carrier
    timers.withoutCarrier = nil
    timers.heartbeat = now + configuration.heartbeatInterval
    heartbeat = nil
    lastHeard = now
    awaitsMoveAck = true
  }

  mutating func fence(_ id: CarrierID, _ reason: String) {
    guard carriers.removeValue(forKey: id) != nil else { return }
    acksToSend.removeAll { $0.carrier == id }
    heartbeatAcks.removeAll { $0.carrier == id }
    effects.append(.closeCarrier(id, reason: reason))
  }

  mutating func beginNextRequest() {
    guard outstanding == nil, let request = requests.popFirst() else { return }
    let serial = nextSerialToSend
    nextSerialToSend = serial.next
    var chunk = ByteBuffer()
    chunk.writeInteger(serial.value)
    // The address parameter names one of our addresses that the peer knows: it has come through accelerators, so its source says nothing.
    chunk.writeAddressParameter(localAddresses[0])
    var correlation: UInt32 = 0
    func write(_ type: UInt16, _ address: IPAddress) {
      correlation += 1
      chunk.writeParameter(type) {
        $0.writeInteger(correlation)
        $0.writeAddressParameter(address)
      }
    }
    switch request {
    case .announce(let address): write(ParameterType.addAddress, address)
    case .withdraw(let address): write(ParameterType.deleteAddress, address)
    case .move(_, let local):
      if !localAddresses.contains(local) {
        write(ParameterType.addAddress, local)
        localAddresses.append(local)
      }
      write(ParameterType.setPrimary, local)
    }
    outstanding = OutstandingRequest(serial: serial, request: request, chunk: chunk, mustSend: true)
  }

  /// ASCONF, and behind it our SACK state if this is a move: the peer sees at once what we hold.
  mutating func requestPacket(on carrier: CarrierID, withSACK: Bool = false, at now: Instant) -> Effect? {
    guard let request = outstanding else { return nil }
    outstanding?.mustSend = false
    var builder = PacketBuilder(header)
    builder.appendAuthentication(algorithm ?? .sha256, keyIdentifier: configuration.endpointKeyIdentifier)
    builder.append(.asconf) { $0.writeImmutableBuffer(request.chunk) }
    if awaitsMoveAck || withSACK { appendSACK(to: &builder, within: packetLimit(of: carrier)) }
    if let path = carriers[carrier]?.path { timers.request = now + path.rto }  // T4-rto (RFC 5061 section 5.1)
    return .transmit(finish(builder), on: carrier)
  }

  /// True if this packet, authenticated, answers the request that is out.
  func answersRequest(_ packet: Packet) -> Bool {
    packet.chunks.contains { chunk in
      var value = chunk.value
      return chunk.known == .asconfAck && value.readInteger(as: UInt32.self) == outstanding?.serial.value
    }
  }

  mutating func receiveASCONFAck(_ chunk: Chunk, on carrier: CarrierID, at now: Instant) {
    var value = chunk.value
    guard let number = value.readInteger(as: UInt32.self), let parameters = Parameter.list(in: value) else {
      return violate("malformed ASCONF-ACK")
    }
    let serial = ASCONFSerial(number)
    guard let request = outstanding, request.serial == serial else {
      // An ACK of what was never asked ends the association (RFC 5061 section 5.3, F0); an old one is a repetition.
      if !serial.isBefore(nextSerialToSend) { violate("ASCONF-ACK of a serial number that was never sent", .illegalASCONFAck) }
      return
    }
    outstanding = nil
    timers.request = nil
    let refusal = parameters.first { $0.type == ParameterType.errorCause }.map { parameter -> String in
      var cause = parameter.value
      cause.moveReaderIndex(forwardBy: min(4, cause.readableBytes))
      return cause.readCause()
    }
    switch request.request {
    case .announce(let address):
      if let refusal {
        // Unless it is the last one by now: an end has an address to the end.
        if localAddresses.count > 1 { localAddresses.removeAll { $0 == address } }
        effects.append(.announcementRefused(address, reason: refusal))
      } else {
        effects.append(.announced(address))
      }
    case .withdraw(let address):
      // Refused, it goes on; the peer says why in words that an operator can look up.
      if let refusal {
        localAddresses.append(address)
        effects.append(.peerReported(refusal))
      } else {
        // Until now the peer could still send there (RFC 5061 section 5.3, F8).
        for id in sortedCarriers where carriers[id]?.path != nil && carriers[id]?.local == address {
          closeCarrier(id, "we have withdrawn \(address)", at: now)
        }
        effects.append(.withdrawn(address))
      }
    case .move(let target, _):
      // On a reliable carrier the answer comes behind the peer's last SACK on it. A datagram may come by any path: some stacks answer where their data goes.
      guard target == activeCarrier, target == carrier || isOnDatagrams else { break }
      if let refusal { return violate("the peer refused to move: \(refusal)") }
      completeMove(to: target)
    }
    if outstanding == nil, awaitsMoveAck { beginNextRequest() }
  }

  /// The peer has switched and fenced the old carrier: its SACK in this packet (in front of the ASCONF-ACK) was its last word on what it holds.
  private mutating func completeMove(to carrier: CarrierID) {
    awaitsMoveAck = false
    loseAllInFlight()
    epoch += 1
    statistics.moves += 1
    effects.append(.moved(to: carrier))
  }
}

// MARK: - Being asked

extension Association {
  mutating func receiveASCONF(_ chunk: Chunk, on carrier: CarrierID, at now: Instant) {
    var value = chunk.value
    guard let number = value.readInteger(as: UInt32.self), value.readAddressParameter() != nil, let parameters = Parameter.list(in: value)
    else {
      return violate("malformed ASCONF")
    }
    let serial = ASCONFSerial(number)
    if let lastAck, lastAck.serial == serial {  // E4: a repetition gets the same answer, where it came from, and changes nothing
      if acksToSend.count < Self.maximumAnswers { acksToSend.append((lastAck.chunk, carrier)) }
      return
    }
    guard serial == nextSerialToReceive else { return }  // E5
    nextSerialToReceive = serial.next
    var answer = ByteBuffer()
    answer.writeInteger(serial.value)
    var hasFailed = false
    for parameter in parameters {
      var body = parameter.value
      guard let correlation = body.readInteger(as: UInt32.self) else { return violate("malformed ASCONF parameter") }
      let address = body.readAddressParameter()
      if address == nil, (ParameterType.addAddress...ParameterType.setPrimary).contains(parameter.type) {
        return violate("malformed ASCONF parameter")
      }
      if let failure = hasFailed ? .notAuthorized : carryOut(parameter.type, address, on: carrier, at: now) {
        hasFailed = true  // V1: once one has failed, all later ones do
        answer.writeParameter(ParameterType.errorCause) {
          $0.writeInteger(correlation)
          // What it is about (RFC 5061 section 4.3): a parameter whose information cannot be longer than the request's.
          $0.writeCause(failure) { $0.writeParameter(parameter.type) { $0.writeImmutableBuffer(parameter.value) } }
        }
      } else {
        answer.writeParameter(ParameterType.success) { $0.writeInteger(correlation) }
      }
    }
    lastAck = (serial, answer)
    acksToSend.append((answer, carrier))
  }

  /// Nil if it was done, else why not.
  private mutating func carryOut(_ type: UInt16, _ address: IPAddress?, on carrier: CarrierID, at now: Instant) -> ErrorCause? {
    guard let address else { return .unrecognizedParameters }
    if address.isWildcard { return .unresolvableAddress }
    switch type {
    case ParameterType.addAddress:
      guard !peerAddresses.contains(address) else { return nil }
      guard peerAddresses.count < configuration.maximumPeerAddresses else { return .resourceShortage }
      peerAddresses.append(address)
      effects.append(.peerAnnounced(address))
    case ParameterType.deleteAddress:
      guard peerAddresses.count > 1 || !peerAddresses.contains(address) else { return .deletesLastAddress }
      guard peerAddresses.contains(address) else { return nil }
      // On datagrams the source is the peer's own; through accelerators it says nothing (RFC 5061 section 5.2, D8).
      if carriers[carrier]?.path != nil, carriers[carrier]?.remote == address { return .deletesSourceAddress }
      for id in sortedCarriers where id != carrier && carriers[id]?.path != nil && carriers[id]?.remote == address {
        closeCarrier(id, "the peer has withdrawn \(address)", at: now)
      }
      peerAddresses.removeAll { $0 == address }
      if preferredAddress == address { preferredAddress = nil }
      effects.append(.peerWithdrew(address))
    case ParameterType.setPrimary:
      guard peerAddresses.contains(address) else { return .unresolvableAddress }
      if carriers[carrier]?.path == nil {
        switchActive(to: carrier, at: now)
      } else {
        prefer(address)
      }
    default: return .unrecognizedParameters
    }
    return nil
  }

  /// The peer dialled this carrier and wants its data here. The SACK behind the ASCONF in the same packet will say what is lost.
  private mutating func switchActive(to carrier: CarrierID, at now: Instant) {
    guard carrier != activeCarrier else { return }
    for id in carriers.keys.sorted(by: { $0.value < $1.value }) where id != carrier { fence(id, "the session has moved") }
    activeCarrier = carrier
    timers.withoutCarrier = nil
    timers.heartbeat = now + configuration.heartbeatInterval
    heartbeat = nil
    lastHeard = now
    outstanding?.mustSend = true
    isLosingInFlight = true
    epoch += 1
    statistics.moves += 1
    effects.append(.moved(to: carrier))
  }

  /// DATA shall go to this address of the peer: at once if a path there works, else when one has been confirmed; until then it goes where it went (RFC 5061 section 5.4: an address that
  /// was just added gets nothing but HEARTBEAT and ASCONF-ACK).
  package mutating func prefer(_ address: IPAddress) {
    preferredAddress = address
    adoptPreferred()
  }

  mutating func adoptPreferred() {
    guard let address = preferredAddress,
      let id = sortedCarriers.first(where: { carriers[$0]?.remote == address && carriers[$0]?.path?.status == .active })
    else { return }
    preferredAddress = nil
    makePrimary(id)
  }

  /// On datagrams the other paths stay: the peer says where it would rather have its data (RFC 5061 section 5.1.4).
  private mutating func makePrimary(_ id: CarrierID) {
    guard id != activeCarrier else { return }
    activeCarrier = id
    timers.withoutCarrier = nil
    epoch += 1
    statistics.moves += 1
    effects.append(.moved(to: id))
  }

  /// ASCONF-ACK goes where the ASCONF came from, our SACK state in front of it, so that the peer sees what we hold before it sends again.
  mutating func ackPacket(_ chunk: ByteBuffer, on carrier: CarrierID) -> Effect? {
    var builder = PacketBuilder(header)
    builder.appendAuthentication(algorithm ?? .sha256, keyIdentifier: configuration.endpointKeyIdentifier)
    if carrier == activeCarrier { appendSACK(to: &builder, within: packetLimit(of: carrier)) }
    builder.append(.asconfAck) { $0.writeImmutableBuffer(chunk) }
    return .transmit(finish(builder), on: carrier)
  }
}

extension IPAddress {
  var isWildcard: Bool { self == .v4(0) || self == .v6(high: 0, low: 0) }
}
