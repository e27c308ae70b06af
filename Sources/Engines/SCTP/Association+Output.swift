import NIOCore
import Vocabulary

extension Association {
  /// The next thing to do; nil when there is nothing for now. DATA is packed here, while the active carrier is writable.
  package mutating func nextEffect(at now: Instant) -> Effect? {
    while true {
      if let effect = effects.popFirst() { return effect }
      guard state != .closed else { return nil }
      let wasDue = forwardIsDue
      if let packet = nextPacket(at: now) {
        statistics.packetsSent += 1
        return packet
      }
      // In the search for something to send, messages may have been given up.
      guard !effects.isEmpty || (forwardIsDue && !wasDue) else { return nil }
    }
  }

  mutating func transmit(_ packet: ByteBuffer, on carrier: CarrierID) {
    statistics.packetsSent += 1
    effects.append(.transmit(packet, on: carrier))
  }

  private mutating func nextPacket(at now: Instant) -> Effect? {
    if controlDue.remove(.initiation) != nil { return initiationPacket() }
    if controlDue.remove(.cookieEcho) != nil { return cookieEchoPacket() }
    if let (chunk, carrier) = acksToSend.first, mayAnswer(on: carrier) {
      acksToSend.removeFirst()
      return ackPacket(chunk, on: carrier)
    }
    if let packet = heartbeatAckPacket() ?? errorPacket() ?? pathHeartbeatPacket(at: now) { return packet }
    guard let carrier = activeCarrier, state != .cookieWait, state != .cookieEchoed else { return nil }
    if outstanding?.mustSend == true { return requestPacket(on: carrier, at: now) }
    if awaitsMoveAck { return nil }
    if outstanding == nil, !requests.isEmpty, state == .established {
      beginNextRequest()
      return requestPacket(on: carrier, at: now)
    }
    if usesStreamReset, let packet = streamRequestPacket(on: newDataCarrier ?? carrier, at: now) { return packet }
    if forwardIsDue, let packet = forwardPacket(on: newDataCarrier ?? carrier, at: now) { return packet }
    if carriers[carrier]?.path != nil { return datagramPacket(at: now) }
    var builder = startPacket()
    appendControl(to: &builder, at: now)
    guard carriers[carrier]?.isWritable == true else { return builder.isBare ? nil : .transmit(finish(builder), on: carrier) }
    if sackIsDue { appendSACK(to: &builder) }
    appendData(to: &builder, on: carrier, at: now)
    return builder.isBare ? nil : .transmit(finish(builder), on: carrier)
  }

  /// A peer that asks without end and reads nothing must not fill the socket with answers: they wait in their bounded queues, SACK is put off. What leaves whatever the carrier says is ours alone:
  /// one HEARTBEAT, one ASCONF, the handshake, the end.
  @inline(__always)
  func mayAnswer(on id: CarrierID) -> Bool {
    guard let carrier = carriers[id] else { return true }
    return carrier.isWritable || carrier.path != nil
  }

  mutating func appendControl(to builder: inout PacketBuilder, at now: Instant) {
    if controlDue.remove(.cookieAck) != nil { builder.append(.cookieAck) }
    if controlDue.remove(.heartbeat) != nil, let heartbeat {
      builder.append(.heartbeat) { bytes in
        bytes.writeParameter(ParameterType.heartbeatInfo) { $0.writeInteger(heartbeat.nonce) }
      }
    }
    if controlDue.remove(.shutdown) != nil {
      let tsn = inbound.cumulativeTSN
      builder.append(.shutdown) { $0.writeInteger(tsn.value) }
    }
    if controlDue.remove(.shutdownAck) != nil { builder.append(.shutdownAck) }
  }

  private mutating func heartbeatAckPacket() -> Effect? {
    guard let (info, carrier) = heartbeatAcks.first, mayAnswer(on: carrier) else { return nil }
    heartbeatAcks.removeFirst()
    guard carriers[carrier] != nil else { return nil }
    var builder = startPacket()
    builder.append(.heartbeatAck) { $0.writeImmutableBuffer(info) }
    return .transmit(finish(builder), on: carrier)
  }

  /// A packet begins, with AUTH if the peer wants it for whatever may follow.
  @inline(__always)
  func startPacket() -> PacketBuilder {
    var builder = PacketBuilder(header, capacity: fragmentLimit)
    if authenticatesAll, let algorithm { builder.appendAuthentication(algorithm, keyIdentifier: configuration.endpointKeyIdentifier) }
    return builder
  }

  @inline(__always)
  func finish(_ builder: consuming PacketBuilder) -> ByteBuffer {
    // Most packets have no AUTH, and a closure that reads `self` copies all of it.
    if builder.authenticationOffset == nil { return builder.finish() }
    let (algorithm, authenticator, key) = (builder.algorithm, authenticator, key)
    return builder.finish { authenticator.code(algorithm, key: key, $0) }
  }
}
