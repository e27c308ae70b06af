import NIOCore
import Vocabulary

/// What a listener makes of a packet that came on a carrier without a session.
package enum ListenerAction: Sendable {
  case reply(ByteBuffer)
  /// The handshake is done; COOKIE ACK is among the association's effects.
  case accept(Association)
  /// A packet of a session that exists, or once did: its owner finds it by the tag.
  case existing(verificationTag: UInt32)
  case refuse(reply: ByteBuffer?, reason: String)
  case ignore(reason: String)
}

/// The passive end. Nothing is kept between INIT and COOKIE ECHO (RFC 9260 section 5.1.3): all of it travels in the cookie, under our MAC.
package struct Listener: Sendable {
  private let configuration: AssociationConfiguration
  private let authenticator: any Authenticator
  private let cookieSecret: [UInt8]
  private var random: any RandomNumberGenerator & Sendable

  package init(
    configuration: AssociationConfiguration, authenticator: any Authenticator, cookieSecret: [UInt8],
    random: any RandomNumberGenerator & Sendable
  ) {
    precondition(cookieSecret.count >= 16)
    self.configuration = configuration
    self.authenticator = authenticator
    self.cookieSecret = cookieSecret
    self.random = random
  }

  package mutating func receive(
    _ bytes: ByteBuffer, on carrier: CarrierID, local: IPAddress, remote: IPAddress, kind: CarrierKind = .reliable, at now: Instant
  ) -> ListenerAction {
    let packet: Packet
    do { packet = try Packet(bytes) } catch { return .ignore(reason: "not an SCTP packet: \(error)") }
    return take(packet, on: carrier, local: local, remote: remote, kind: kind, at: now)
  }

  mutating func take(
    _ packet: Packet, on carrier: CarrierID, local: IPAddress, remote: IPAddress, kind: CarrierKind, at now: Instant
  ) -> ListenerAction {
    switch packet.chunks[0].known {
    case .initiation:
      // INIT stands alone and with tag 0 (RFC 9260 section 8.5.1).
      guard packet.chunks.count == 1, packet.header.verificationTag == 0 else { return .ignore(reason: "INIT in bad company") }
      return answer(packet, at: now)
    case .cookieEcho where !configuration.features.isRequired:
      return open(packet, at: 0, on: carrier, local: local, remote: remote, kind: kind, at: now)
    case .cookieEcho: return .refuse(reply: abort(packet, tag: 0, "COOKIE ECHO without AUTH"), reason: "COOKIE ECHO without AUTH")
    case .authentication where packet.chunks.count > 1 && packet.chunks[1].known == .cookieEcho:
      return open(packet, at: 1, on: carrier, local: local, remote: remote, kind: kind, at: now)
    case .abort, .shutdownComplete: return .ignore(reason: "nothing to abort")
    default: return .existing(verificationTag: packet.header.verificationTag)
    }
  }

  private mutating func answer(_ packet: Packet, at now: Instant) -> ListenerAction {
    guard let peer = Initiation(packet.chunks[0].value), peer.tag != 0 else { return .refuse(reply: nil, reason: "malformed INIT") }
    if let fault = peer.fault {
      var builder = PacketBuilder(reply(to: packet, tag: peer.tag))
      builder.append(.abort) { fault.write(into: &$0) }
      return .refuse(reply: builder.finish(), reason: "INIT with \(fault.cause.words)")
    }
    let isRequired = configuration.features.isRequired
    guard peer.algorithm(for: configuration.features) != nil || (!isRequired && !(peer.offersASCONF && !peer.offersAuthentication)) else {
      // ASCONF without AUTH must be refused (RFC 5061 section 6); we speak to nobody without either.
      return .refuse(reply: abort(packet, tag: peer.tag, "AUTH with HMAC-SHA-256 is required"), reason: "INIT without AUTH")
    }
    guard peer.offersASCONF || !isRequired else {
      return .refuse(reply: abort(packet, tag: peer.tag, "ASCONF is required"), reason: "INIT without ASCONF")
    }
    let nonce = (0..<Authentication.randomLength).map { _ in UInt8.random(in: 0...255, using: &random) }
    var ours = Initiation(
      tag: UInt32.random(in: 1...UInt32.max, using: &random), receiveWindow: UInt32(configuration.receiveWindow.octets),
      outboundStreams: min(configuration.outboundStreams, peer.inboundStreams), inboundStreams: configuration.inboundStreams,
      initialTSN: TSN(UInt32.random(in: 0...UInt32.max, using: &random)))
    ours.addresses = configuration.localAddresses.filter { !$0.isWildcard && peer.takes($0) }
    ours.unrecognized = peer.unrecognized
    ours.cookie = Cookie(made: now, ours: ours, ourRandom: nonce, peer: peer).sealed(secret: cookieSecret, by: authenticator)
    var builder = PacketBuilder(reply(to: packet, tag: peer.tag))
    builder.append(.initiationAck) { ours.write(into: &$0, random: nonce, features: configuration.features) }
    return .reply(builder.finish())
  }

  private mutating func open(
    _ packet: Packet, at index: Int, on carrier: CarrierID, local: IPAddress, remote: IPAddress, kind: CarrierKind, at now: Instant
  ) -> ListenerAction {
    guard let cookie = Cookie(sealed: packet.chunks[index].value, secret: cookieSecret, by: authenticator) else {
      return .ignore(reason: "a cookie that is not ours")
    }
    guard packet.header.verificationTag == cookie.ours.tag else { return .ignore(reason: "a cookie with another tag") }
    guard now - cookie.made <= configuration.cookieLifetime else {
      return .refuse(reply: cookie.staleReply(to: packet, lifetime: configuration.cookieLifetime, at: now), reason: "a stale cookie")
    }
    let key = cookie.associationKey(configuration)
    if let key,
      index == 0
        || !Authentication.verifies(
          packet.chunks[0], in: packet, key: key, configuration, by: authenticator)
    {
      let reason = "the endpoint keys differ: use the same key file on both sides"
      return .refuse(reply: abort(packet, tag: cookie.peer.tag, reason), reason: "COOKIE ECHO failed authentication: \(reason)")
    }
    return .accept(
      Association(
        accepting: configuration, cookie: cookie, key: key ?? [], authenticator: authenticator,
        header: reply(to: packet, tag: cookie.peer.tag),
        random: SeededGenerator(seed: random.next()), on: carrier, local: local, remote: remote, kind: kind, packet: packet,
        from: index + 1, at: now))
  }

  private func reply(to packet: Packet, tag: UInt32) -> PacketHeader {
    PacketHeader(sourcePort: packet.header.destinationPort, destinationPort: packet.header.sourcePort, verificationTag: tag)
  }

  private func abort(_ packet: Packet, tag: UInt32, _ reason: String) -> ByteBuffer {
    var builder = PacketBuilder(reply(to: packet, tag: tag))
    builder.append(.abort) { $0.writeAbortCause(reason) }
    return builder.finish()
  }
}

/// What the passive end must know again when COOKIE ECHO comes (RFC 9260 section 5.1.3).
struct Cookie: Sendable {
  var made: Instant
  var ours: Initiation
  var ourRandom: [UInt8]
  var peer: Initiation
  /// Our tag and the peer's in the association that the INIT met (RFC 9260 section 5.2.2); zeros if there was none.
  var ties: (local: UInt32, peer: UInt32) = (0, 0)

  init(made: Instant, ours: Initiation, ourRandom: [UInt8], peer: Initiation) {
    self.made = made
    self.ours = ours
    self.ourRandom = ourRandom
    self.peer = peer
  }

  /// Nil if one of the two sides does without AUTH.
  func associationKey(_ configuration: AssociationConfiguration) -> [UInt8]? {
    guard peer.algorithm(for: configuration.features) != nil else { return nil }
    return Authentication.associationKey(
      endpointKey: configuration.endpointKey, Authentication.keyVector(random: ourRandom, configuration.features.algorithms), peer.keyVector
    )
  }

  /// Stale Cookie (RFC 9260 section 3.3.10.3), staleness in microseconds.
  func staleReply(to packet: Packet, lifetime: TimeSpan, at now: Instant) -> ByteBuffer {
    var builder = PacketBuilder(
      PacketHeader(
        sourcePort: packet.header.destinationPort, destinationPort: packet.header.sourcePort, verificationTag: peer.tag))
    builder.append(.error) {
      $0.writeCause(.staleCookie) { $0.writeInteger(UInt32(clamping: (now - made - lifetime).nanoseconds / 1_000)) }
    }
    return builder.finish()
  }

  func sealed(secret: [UInt8], by authenticator: some Authenticator) -> ByteBuffer {
    var bytes = ByteBuffer()
    bytes.writeInteger(made.nanoseconds)
    for side in [ours, peer] {
      bytes.writeInteger(side.tag)
      bytes.writeInteger(side.receiveWindow)
      bytes.writeInteger(side.outboundStreams)
      bytes.writeInteger(side.inboundStreams)
      bytes.writeInteger(side.initialTSN.value)
    }
    bytes.writeBytes(ourRandom)
    let addresses = peer.addresses.prefix(16)
    bytes.writeInteger(UInt16(addresses.count))
    for address in addresses { bytes.writeAddressParameter(address) }
    bytes.writeInteger(UInt16(peer.keyVector.readableBytes))
    bytes.writeImmutableBuffer(peer.keyVector)
    if !peer.extensions.isEmpty {
      bytes.writeInteger(UInt8(clamping: peer.extensions.count))
      bytes.writeBytes(peer.extensions.prefix(255))
    }
    if ties != (0, 0) {
      if peer.extensions.isEmpty { bytes.writeInteger(UInt8(0)) }
      bytes.writeInteger(ties.local)
      bytes.writeInteger(ties.peer)
    }
    bytes.writeBytes(authenticator.authenticationCode(key: secret, [bytes]))
    return bytes
  }

  init?(sealed: ByteBuffer, secret: [UInt8], by authenticator: some Authenticator) {
    var bytes = sealed
    let length = sealed.readableBytes - Authentication.codeLength
    guard length > 0, let body = bytes.readSlice(length: length), let code = bytes.readBytes(length: Authentication.codeLength),
      Authentication.isEqual(code, authenticator.authenticationCode(key: secret, [body]))
    else { return nil }
    var rest = body
    guard let made = rest.readInteger(as: Int64.self), let ours = rest.readSide(), var peer = rest.readSide(),
      let random = rest.readBytes(length: Authentication.randomLength), let count = rest.readInteger(as: UInt16.self)
    else { return nil }
    for _ in 0..<count {
      guard let address = rest.readAddressParameter() else { return nil }
      peer.addresses.append(address)
    }
    guard let vectorLength = rest.readInteger(as: UInt16.self), let vector = rest.readSlice(length: Int(vectorLength)) else { return nil }
    peer.readKeyVector(vector)
    if let count = rest.readInteger(as: UInt8.self) { peer.extensions = rest.readBytes(length: Int(count)) ?? [] }
    let ties = (rest.readInteger(as: UInt32.self) ?? 0, rest.readInteger(as: UInt32.self) ?? 0)
    self.init(made: Instant(nanoseconds: made), ours: ours, ourRandom: random, peer: peer)
    self.ties = ties
  }
}

extension ByteBuffer {
  fileprivate mutating func readSide() -> Initiation? {
    guard let tag = readInteger(as: UInt32.self), let window = readInteger(as: UInt32.self), let outbound = readInteger(as: UInt16.self),
      let inbound = readInteger(as: UInt16.self), let tsn = readInteger(as: UInt32.self)
    else { return nil }
    return Initiation(tag: tag, receiveWindow: window, outboundStreams: outbound, inboundStreams: inbound, initialTSN: TSN(tsn))
  }
}
