import NIOCore
import Vocabulary

/// Which association a COOKIE ECHO means when one exists already: the rows of the table in RFC 9260 section 5.2.4.
enum CookieCase: Sendable, Hashable {
  /// Neither tag is ours, the tie-tags are: the peer has restarted.
  case a
  /// Our tag, another one of the peer: both sides began at once.
  case b
  /// The peer's tag, another one of ours, no tie-tags: the cookie comes too late.
  case c
  /// Both tags: our COOKIE ACK was lost, or has crossed it.
  case d

  init?(matchesLocal: Bool, matchesPeer: Bool, peerIsUnknown: Bool, matchesTies: Bool, hasTies: Bool) {
    switch (matchesLocal, matchesPeer) {
    case (false, false) where matchesTies: self = .a
    case (true, false): self = .b
    case (false, true) where !hasTies: self = .c
    case (true, true): self = .d
    default:
      guard peerIsUnknown, matchesLocal else { return nil }
      self = .b
    }
  }
}

// MARK: - Sending

extension Association {
  /// T1: on a datagram carrier the RTO, which grows with each try.
  var handshakeInterval: TimeSpan { activeCarrier.flatMap { carriers[$0]?.path?.rto } ?? configuration.handshakeTimeout }

  mutating func retryHandshake(at now: Instant) {
    guard state == .cookieWait || state == .cookieEchoed else { return }
    handshakeTries += 1
    let limit = isOnDatagrams ? configuration.paths.handshakeRetransmissions : configuration.handshakeRetries
    guard handshakeTries <= limit else { return fail(.handshakeTimedOut) }
    controlDue.insert(state == .cookieWait ? .initiation : .cookieEcho)
    if let active = activeCarrier { backOff(active) }
    timers.handshake = now + handshakeInterval
  }

  mutating func initiationPacket() -> Effect? {
    guard let carrier = activeCarrier else { return nil }
    var initiation = Initiation(
      tag: localVerificationTag, receiveWindow: UInt32(configuration.receiveWindow.octets), outboundStreams: configuration.outboundStreams,
      inboundStreams: configuration.inboundStreams, initialTSN: ourInitialTSN)
    initiation.addresses = localAddresses.filter { !$0.isWildcard }
    var builder = PacketBuilder(PacketHeader(sourcePort: header.sourcePort, destinationPort: header.destinationPort, verificationTag: 0))
    let (random, features) = (ourRandom, configuration.features)
    builder.append(.initiation) { initiation.write(into: &$0, random: random, features: features) }
    return .transmit(builder.finish(), on: carrier)
  }

  mutating func cookieEchoPacket() -> Effect? {
    guard let carrier = activeCarrier, let cookie else { return nil }
    var builder = PacketBuilder(header)
    if let algorithm { builder.appendAuthentication(algorithm, keyIdentifier: configuration.endpointKeyIdentifier) }
    builder.append(.cookieEcho) { $0.writeImmutableBuffer(cookie) }
    return .transmit(finish(builder), on: carrier)
  }

  /// What the peer's INIT or INIT ACK says of it.
  mutating func adopt(_ peer: Initiation) {
    algorithm = peer.algorithm(for: configuration.features)
    usesReconfiguration = usesAuthentication && configuration.features.reconfiguration && peer.offersASCONF
    let ours = Set(Authentication.chunks.map(\.rawValue))
    authenticatesAll = usesAuthentication && !peer.authenticatedChunks.allSatisfy { ours.contains($0) }
    for address in peer.addresses where !peerAddresses.contains(address) && peerAddresses.count < configuration.maximumPeerAddresses {
      peerAddresses.append(address)
    }
    peerInboundStreams = min(peer.inboundStreams, configuration.outboundStreams)
    inboundStreams = min(peer.outboundStreams, configuration.inboundStreams)
    let features = configuration.features
    usesStreamReset = features.streamReset && peer.offers(.reconfiguration)
    usesInterleaving = features.interleaving && peer.offers(.interleavedData)
    usesPartialReliability = features.partialReliability && peer.offers(usesInterleaving ? .interleavedForwardTSN : .forwardTSN)
    queue.interleaves = usesInterleaving
    inbound.isInterleaved = usesInterleaving
    inbound.mayBeForwarded = usesPartialReliability
    queue.interleavingLimit = Int(peer.receiveWindow) / 2
    streamRequests.begin(ours: ourInitialTSN, peers: peer.initialTSN)
  }

  mutating func startKeepingAlive(at now: Instant) {
    timers.handshake = nil
    if isOnDatagrams { startHeartbeats(at: now) } else { timers.heartbeat = now + configuration.heartbeatInterval }
  }
}

// MARK: - Receiving

extension Association {
  /// True if the packet belongs to a handshake that an existing association must look at before its tags (RFC 9260 section 5.2).
  mutating func meetsHandshake(_ packet: Packet, on carrier: CarrierID, at now: Instant) -> Bool {
    guard !configuration.cookieSecret.isEmpty else { return false }
    let first = packet.chunks[0]
    if first.known == .initiation {
      if packet.chunks.count == 1, packet.header.verificationTag == 0 { receiveInitiation(packet, on: carrier, at: now) }
      return true
    }
    let index = first.known == .authentication && packet.chunks.count > 1 ? 1 : 0
    guard packet.chunks[index].known == .cookieEcho else { return false }
    receiveCookie(packet, at: index, on: carrier, at: now)
    return true
  }

  /// INIT meets an association (RFC 9260 sections 5.2.1, 5.2.2 and 9.2). Nothing changes here: all goes into the cookie.
  private mutating func receiveInitiation(_ packet: Packet, on carrier: CarrierID, at now: Instant) {
    guard let peer = Initiation(packet.chunks[0].value), peer.tag != 0, peer.fault == nil else { return }
    if state == .shutdownAckSent {
      controlDue.insert(.shutdownAck)
      return
    }
    let answer = PacketHeader(sourcePort: header.sourcePort, destinationPort: header.destinationPort, verificationTag: peer.tag)
    let begins = state == .cookieWait || state == .cookieEchoed
    if !begins, let stranger = peer.addresses.first(where: { !peerAddresses.contains($0) }) {
      var builder = PacketBuilder(answer)
      builder.append(.abort) { $0.writeCause(.restartWithNewAddresses) { $0.writeAddressParameter(stranger) } }
      return transmit(builder.finish(), on: carrier)
    }
    var ours = Initiation(
      tag: begins ? localVerificationTag : UInt32.random(in: 1...UInt32.max, using: &random),
      receiveWindow: UInt32(configuration.receiveWindow.octets), outboundStreams: min(configuration.outboundStreams, peer.inboundStreams),
      inboundStreams: configuration.inboundStreams,
      initialTSN: begins ? ourInitialTSN : TSN(UInt32.random(in: 0...UInt32.max, using: &random)))
    ours.addresses = localAddresses.filter { !$0.isWildcard && peer.takes($0) }
    ours.unrecognized = peer.unrecognized
    let nonce = begins ? ourRandom : (0..<Authentication.randomLength).map { _ in UInt8.random(in: 0...255, using: &random) }
    var cookie = Cookie(made: now, ours: ours, ourRandom: nonce, peer: peer)
    if state != .cookieWait { cookie.ties = (localVerificationTag, header.verificationTag) }
    ours.cookie = cookie.sealed(secret: configuration.cookieSecret, by: authenticator)
    var builder = PacketBuilder(answer)
    let features = configuration.features
    builder.append(.initiationAck) { ours.write(into: &$0, random: nonce, features: features) }
    transmit(builder.finish(), on: carrier)
  }

  /// COOKIE ECHO meets an association (RFC 9260 section 5.2.4).
  private mutating func receiveCookie(_ packet: Packet, at index: Int, on carrier: CarrierID, at now: Instant) {
    guard let cookie = Cookie(sealed: packet.chunks[index].value, secret: configuration.cookieSecret, by: authenticator),
      cookie.ours.tag == packet.header.verificationTag
    else {
      statistics.packetsDropped += 1
      return
    }
    let authentication = cookie.associationKey(configuration)
    if let key = authentication,
      index == 0
        || !Authentication.verifies(
          packet.chunks[0], in: packet, key: key, configuration, by: authenticator)
    {
      statistics.packetsDropped += 1
      return
    }
    let matchesLocal = cookie.ours.tag == localVerificationTag
    let matchesPeer = cookie.peer.tag == header.verificationTag
    if now - cookie.made > configuration.cookieLifetime, !(matchesLocal && matchesPeer) {
      return transmit(cookie.staleReply(to: packet, lifetime: configuration.cookieLifetime, at: now), on: carrier)
    }
    let found = CookieCase(
      matchesLocal: matchesLocal, matchesPeer: matchesPeer, peerIsUnknown: header.verificationTag == 0,
      matchesTies: cookie.ties == (localVerificationTag, header.verificationTag), hasTies: cookie.ties != (0, 0))
    switch found {
    case .a: restart(with: cookie, key: authentication ?? [], packet, from: index + 1, on: carrier, at: now)
    case .b:
      if state == .cookieWait || state == .cookieEchoed {
        header.verificationTag = cookie.peer.tag
        peerWindow = Int(cookie.peer.receiveWindow)
        inbound = Reassembly(after: cookie.peer.initialTSN.previous, limit: configuration.receiveWindow.octets)
        nextSerialToReceive = ASCONFSerial(cookie.peer.initialTSN.value)
        key = authentication ?? []
        adopt(cookie.peer)
        establish(at: now)
      } else {
        header.verificationTag = cookie.peer.tag
      }
      confirmCookie(packet, from: index + 1, on: carrier, at: now)
    case .c, nil: statistics.packetsDropped += 1
    case .d:
      if state == .cookieEchoed { establish(at: now) }
      confirmCookie(packet, from: index + 1, on: carrier, at: now)
    }
  }

  private mutating func confirmCookie(_ packet: Packet, from index: Int, on carrier: CarrierID, at now: Instant) {
    controlDue.remove(.initiation)
    controlDue.remove(.cookieEcho)
    controlDue.insert(.cookieAck)
    statistics.packetsReceived += 1
    process(packet, from: index, on: carrier, isAuthenticated: index > 1, at: now)
  }

  private mutating func restart(
    with cookie: Cookie, key: [UInt8], _ packet: Packet, from index: Int, on carrier: CarrierID, at now: Instant
  ) {
    guard let path = carriers[carrier], let mtu = path.path?.mtu else { return }
    if state == .shutdownAckSent {
      // The peer must first learn that the old one is over (RFC 9260 section 5.2.4, action A).
      var builder = PacketBuilder(
        PacketHeader(sourcePort: header.sourcePort, destinationPort: header.destinationPort, verificationTag: cookie.peer.tag))
      builder.append(.shutdownAck)
      builder.append(.error) { $0.writeCause(.cookieWhileShuttingDown) { _ in } }
      return transmit(builder.finish(), on: carrier)
    }
    let before = self
    var again = header
    again.verificationTag = cookie.peer.tag
    self = Association(
      accepting: configuration, cookie: cookie, key: key, authenticator: authenticator, header: again,
      random: SeededGenerator(seed: random.next()), on: carrier, local: path.local, remote: path.remote, kind: .datagram(mtu: mtu),
      packet: packet, from: index, at: now)
    localAddresses = before.localAddresses
    for id in before.sortedCarriers where id != carrier {
      guard let old = before.carriers[id], let mtu = old.path?.mtu else { continue }
      carrierOpened(id, local: old.local, remote: old.remote, kind: .datagram(mtu: mtu), at: now)
    }
    let news = effects.filter { if case .established = $0 { false } else { true } }
    effects = before.effects + [.restarted] + news
    statistics = before.statistics
  }

  mutating func establish(at now: Instant) {
    state = .established
    cookie = nil
    startKeepingAlive(at: now)
    effects.append(.established)
  }

  mutating func receiveInitiationAck(_ chunk: Chunk, at now: Instant) {
    guard state == .cookieWait else { return }
    guard let peer = Initiation(chunk.value), peer.tag != 0 else { return violate("malformed INIT ACK") }
    guard let cookie = peer.cookie, peer.fault == nil else {
      return refuseHandshake(peer.tag, peer.fault ?? InitiationFault(cause: .missingParameter, parameter: ParameterType.stateCookie))
    }
    if configuration.features.isRequired {
      guard peer.algorithm(for: configuration.features) != nil else { return fail(.peerLacksExtension("AUTH with HMAC-SHA-256")) }
      guard peer.offersASCONF else { return fail(.peerLacksExtension("ASCONF")) }
    } else if peer.offersASCONF, !peer.offersAuthentication {
      return fail(.peerLacksExtension("AUTH, though it offers ASCONF"))  // RFC 5061 section 6
    }
    header.verificationTag = peer.tag
    peerWindow = Int(peer.receiveWindow)
    inbound = Reassembly(after: peer.initialTSN.previous, limit: configuration.receiveWindow.octets)
    nextSerialToReceive = ASCONFSerial(peer.initialTSN.value)
    adopt(peer)
    if usesAuthentication {
      key = Authentication.associationKey(
        endpointKey: configuration.endpointKey, Authentication.keyVector(random: ourRandom, configuration.features.algorithms),
        peer.keyVector)
    }
    // What we do not know and should name (RFC 9260 section 3.2.2) follows when the handshake is done.
    if !peer.unrecognized.isEmpty, let carrier = activeCarrier {
      var cause = ByteBuffer()
      cause.writeCause(.unrecognizedParameters) { for parameter in peer.unrecognized.prefix(8) { $0.writeImmutableBuffer(parameter) } }
      if cause.readableBytes <= 512 { errorsToSend.append((cause, carrier)) }
    }
    self.cookie = cookie
    state = .cookieEchoed
    handshakeTries = 0
    controlDue.insert(.cookieEcho)
    timers.handshake = now + handshakeInterval
  }

  /// The peer is told why its INIT ACK is none.
  private mutating func refuseHandshake(_ tag: UInt32, _ fault: InitiationFault) {
    if let carrier = activeCarrier {
      var builder = PacketBuilder(
        PacketHeader(sourcePort: header.sourcePort, destinationPort: header.destinationPort, verificationTag: tag))
      builder.append(.abort) { fault.write(into: &$0) }
      transmit(builder.finish(), on: carrier)
    }
    fail(.protocolViolation("INIT ACK with \(fault.cause.words)"))
  }

  mutating func receiveCookieAck(at now: Instant) {
    guard state == .cookieEchoed else { return }
    establish(at: now)
  }

  mutating func receiveError(_ chunk: Chunk, at now: Instant) {
    var value = chunk.value
    let isStaleCookie = value.getInteger(at: value.readerIndex, as: UInt16.self) == 3
    let reason = value.readCause()
    guard state == .cookieEchoed else {
      // Unrecognised ASCONF: no more of them (RFC 5061 section 5.3, A9).
      if chunk.value.getInteger(at: chunk.value.readerIndex + 4, as: UInt8.self) == ChunkType.asconf.rawValue {
        usesReconfiguration = false
      }
      return effects.append(.peerReported(reason))
    }
    guard isStaleCookie, isOnDatagrams, handshakeTries < configuration.paths.handshakeRetransmissions else {
      return fail(.peerAborted(reason))
    }
    // Again from INIT (RFC 9260 section 5.2.6, alternative 1).
    handshakeTries += 1
    state = .cookieWait
    cookie = nil
    header.verificationTag = 0
    controlDue.insert(.initiation)
    timers.handshake = now + handshakeInterval
  }

  // MARK: Errors

  /// DATA that is none: without an octet of user data it ends the association (RFC 9260 section 6.2).
  mutating func refuseData(_ chunk: Chunk) {
    guard chunk.value.readableBytes == (usesInterleaving ? 16 : 12), let carrier = activeCarrier,
      let tsn = chunk.value.getInteger(at: chunk.value.readerIndex, as: UInt32.self)
    else { return violate("malformed DATA") }
    var builder = startPacket()
    builder.append(.abort) { $0.writeCause(.noUserData) { $0.writeInteger(tsn) } }
    transmit(finish(builder), on: carrier)
    fail(.protocolViolation("DATA without user data"))
  }

  mutating func report(unrecognized chunk: Chunk, on carrier: CarrierID) {
    guard errorsToSend.count < Self.maximumErrors else { return }
    var cause = ByteBuffer()
    // The chunk as it stood, cut to what helps a person; 64 octets are a header and its first fields.
    let value = chunk.value.getSlice(at: chunk.value.readerIndex, length: min(60, chunk.value.readableBytes)) ?? ByteBuffer()
    cause.writeCause(.unrecognizedChunk) {
      $0.writeInteger(chunk.type)
      $0.writeInteger(chunk.flags)
      $0.writeInteger(UInt16(clamping: 4 + chunk.value.readableBytes))
      $0.writeImmutableBuffer(value)
    }
    errorsToSend.append((cause, carrier))
  }

  mutating func errorPacket() -> Effect? {
    guard isPastHandshake, let (cause, carrier) = errorsToSend.first, mayAnswer(on: carrier) else { return nil }
    errorsToSend.removeFirst()
    guard carriers[carrier] != nil else { return nil }
    var builder = startPacket()
    builder.append(.error) { $0.writeImmutableBuffer(cause) }
    return .transmit(finish(builder), on: carrier)
  }
}
