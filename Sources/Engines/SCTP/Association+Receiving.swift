import NIOCore
import Vocabulary

extension Association {
  /// A packet has come on a carrier. Whatever is wrong with it, it costs at most its own carrier.
  package mutating func receive(_ bytes: ByteBuffer, on carrier: CarrierID, at now: Instant) {
    guard state != .closed, carriers[carrier] != nil else {  // fenced carriers are unknown ones
      statistics.packetsDropped += 1
      return
    }
    let packet: Packet
    do throws(PacketError) { packet = try Packet(bytes) } catch {
      statistics.packetsDropped += 1
      // On TCP a damaged packet means that the framing itself is lost.
      return closeCarrier(carrier, "damaged packet: \(error)", at: now)
    }
    guard packet.header.verificationTag == localVerificationTag || isReflectedEnd(packet) else {
      statistics.packetsDropped += 1
      return
    }
    statistics.packetsReceived += 1
    let first = packet.chunks[0]
    guard first.known == .authentication else { return process(packet, from: 0, on: carrier, isAuthenticated: false, at: now) }
    guard !key.isEmpty, Authentication.verifies(first, in: packet, key: key, by: authenticator) else {
      statistics.packetsDropped += 1
      return
    }
    process(packet, from: 1, on: carrier, isAuthenticated: true, at: now)
  }

  /// ABORT and SHUTDOWN COMPLETE may carry the sender's peer's tag with the T bit (RFC 9260 section 8.5.1).
  private func isReflectedEnd(_ packet: Packet) -> Bool {
    let first = packet.chunks[0]
    return (first.known == .abort || first.known == .shutdownComplete) && first.flags & 1 == 1
      && packet.header.verificationTag == header.verificationTag
  }

  mutating func process(_ packet: Packet, from index: Int, on carrier: CarrierID, isAuthenticated: Bool, at now: Instant) {
    var hasData = false
    var wantsSACKNow = false
    if isAuthenticated, carrier == parkedCarrier, answersRequest(packet) { takeParked(at: now) }
    chunks: for chunk in packet.chunks.dropFirst(index) {
      // Only an authenticated ASCONF makes a carrier the active one; until then it may carry nothing else (facts of RFC 5061 section 5.4, F1).
      guard carrier == activeCarrier || chunk.known == .asconf else {
        statistics.packetsDropped += 1
        break chunks
      }
      if carrier == activeCarrier { lastHeard = now }
      switch chunk.known {
      case .data:
        guard state == .established || state == .shutdownPending || state == .shutdownSent else { continue }
        guard let data = readData(chunk) else { return violate("malformed DATA") }
        hasData = true
        if data.flags & DataFlags.immediate != 0 { wantsSACKNow = true }
        receive(data)
      case .sack: receiveSACK(chunk, at: now)
      case .initiationAck: receiveInitiationAck(chunk, at: now)
      case .cookieAck: receiveCookieAck(at: now)
      case .cookieEcho:
        // Case D of RFC 9260 section 5.2.4: our COOKIE ACK was lost with something, say it again.
        if isAuthenticated { controlDue.insert(.cookieAck) }
      case .heartbeat:
        if heartbeatAcks.count < 8 { heartbeatAcks.append((chunk.value, carrier)) }
      case .heartbeatAck: receiveHeartbeatAck(chunk, on: carrier, at: now)
      case .asconf:
        guard isAuthenticated else {
          statistics.packetsDropped += 1
          return  // with the rest of the packet (RFC 5061 section 4.1.1)
        }
        receiveASCONF(chunk, on: carrier, at: now)
      case .asconfAck:
        guard isAuthenticated else {
          statistics.packetsDropped += 1
          return
        }
        receiveASCONFAck(chunk, on: carrier, at: now)
      case .abort:
        var value = chunk.value
        return fail(.peerAborted(value.readCause()))
      case .error: receiveError(chunk)
      case .shutdown: receiveShutdown(chunk, at: now)
      case .shutdownAck: receiveShutdownAck(on: carrier)
      case .shutdownComplete:
        guard state == .shutdownAckSent else { continue }
        close()
      case .initiation, .authentication: continue
      case nil:
        // The upper bits of an unknown type say whether the rest of the packet is looked at (RFC 9260 section 3.2).
        if chunk.type & 0x80 == 0 { break chunks }
      }
      if state == .closed { return }
    }
    finishPacket(hasData, wantsSACKNow, at: now)
    if isLosingInFlight {
      isLosingInFlight = false
      loseAllInFlight()
    }
  }

  mutating func violate(_ what: String) {
    if let carrier = activeCarrier {
      var builder = PacketBuilder(header)
      builder.append(.abort) { $0.writeAbortCause(what) }
      transmit(builder.finish(), on: carrier)
    }
    fail(.protocolViolation(what))
  }

  mutating func closeCarrier(_ id: CarrierID, _ reason: String, at now: Instant) {
    effects.append(.closeCarrier(id, reason: reason))
    carrierClosed(id, at: now)
  }

  /// SACK at least every second packet, within the delay, and at once for the I bit or a gap (RFC 9260 section 6.2).
  private mutating func finishPacket(_ hasData: Bool, _ wantsSACKNow: Bool, at now: Instant) {
    guard hasData else { return }
    packetsSinceSACK += 1
    if wantsSACKNow || packetsSinceSACK >= 2 || inbound.hasGap || !duplicates.isEmpty || state == .shutdownSent {
      sackIsDue = true
      timers.sack = nil
    } else if timers.sack == nil {
      timers.sack = now + configuration.sackDelay
    }
  }

  // MARK: DATA

  private func readData(_ chunk: Chunk) -> InboundChunk? {
    var value = chunk.value
    guard let tsn = value.readInteger(as: UInt32.self), let stream = value.readInteger(as: UInt16.self),
      let sequence = value.readInteger(as: UInt16.self),
      let identifier = value.readInteger(as: UInt32.self), value.readableBytes > 0
    else { return nil }
    return InboundChunk(
      tsn: TSN(tsn), stream: StreamID(stream), sequence: SSN(sequence), protocolIdentifier: identifier, flags: chunk.flags, payload: value)
  }

  private mutating func receive(_ chunk: InboundChunk) {
    switch inbound.receive(chunk) {
    case .accepted:
      while let message = inbound.ready.popFirst() { hand(message) }
    case .duplicate:
      statistics.duplicatesReceived += 1
      if duplicates.count < 64 { duplicates.append(chunk.tsn) }
    case .dropped: sackIsDue = true
    case .violation(let what): violate(what)
    }
  }

  private mutating func hand(_ message: InboundMessage) {
    statistics.messagesDelivered += 1
    statistics.octetsDelivered += message.payload.readableBytes
    effects.append(.deliver(stream: message.stream, protocolIdentifier: message.protocolIdentifier, payload: message.payload))
  }

  mutating func appendSACK(to builder: inout PacketBuilder, within limit: Int? = nil) {
    let limit = limit ?? configuration.maximumPacketSize
    sackIsDue = false
    packetsSinceSACK = 0
    timers.sack = nil
    statistics.sacksSent += 1
    let doubles = duplicates
    duplicates.removeAll(keepingCapacity: true)
    // As offsets from the cumulative TSN, as many as fit into the packet (RFC 9260 section 3.3.4).
    let room = max(0, (limit - builder.length - 16 - 4 * doubles.count) / 4)
    let blocks = inbound.ranges.prefix(room)
    let inbound = inbound
    builder.append(.sack) { bytes in
      bytes.writeInteger(inbound.cumulativeTSN.value)
      bytes.writeInteger(UInt32(clamping: inbound.window))
      bytes.writeInteger(UInt16(blocks.count))
      bytes.writeInteger(UInt16(doubles.count))
      for block in blocks {
        bytes.writeInteger(UInt16(block.first.distance(from: inbound.cumulativeTSN)))
        bytes.writeInteger(UInt16(block.last.distance(from: inbound.cumulativeTSN)))
      }
      for tsn in doubles { bytes.writeInteger(tsn.value) }
    }
  }

  // MARK: Handshake, the active side

  private mutating func receiveInitiationAck(_ chunk: Chunk, at now: Instant) {
    guard state == .cookieWait else { return }
    guard let peer = Initiation(chunk.value), peer.tag != 0, let cookie = peer.cookie else { return violate("malformed INIT ACK") }
    guard peer.offersAuthentication else { return fail(.peerLacksExtension("AUTH with HMAC-SHA-256")) }
    guard peer.offersASCONF else { return fail(.peerLacksExtension("ASCONF")) }
    header.verificationTag = peer.tag
    peerWindow = Int(peer.receiveWindow)
    inbound = Reassembly(after: peer.initialTSN.previous, limit: configuration.receiveWindow.octets)
    nextSerialToReceive = ASCONFSerial(peer.initialTSN.value)
    for address in peer.addresses where !peerAddresses.contains(address) { peerAddresses.append(address) }
    key = Authentication.associationKey(endpointKey: configuration.endpointKey, Authentication.keyVector(random: ourRandom), peer.keyVector)
    self.cookie = cookie
    state = .cookieEchoed
    handshakeTries = 0
    controlDue.insert(.cookieEcho)
    timers.handshake = now + configuration.handshakeTimeout
  }

  private mutating func receiveCookieAck(at now: Instant) {
    guard state == .cookieEchoed else { return }
    state = .established
    cookie = nil
    timers.handshake = nil
    timers.heartbeat = now + configuration.heartbeatInterval
    effects.append(.established)
  }

  private mutating func receiveError(_ chunk: Chunk) {
    var value = chunk.value
    let reason = value.readCause()
    if state == .cookieEchoed { fail(.peerAborted(reason)) }
  }

  // MARK: HEARTBEAT

  private mutating func receiveHeartbeatAck(_ chunk: Chunk, on carrier: CarrierID, at now: Instant) {
    guard let list = Parameter.list(in: chunk.value), var info = list.first?.value, let nonce = info.readInteger(as: UInt64.self),
      let heartbeat,
      heartbeat.nonce == nonce
    else { return }
    self.heartbeat = nil
    effects.append(.roundTrip(carrier, now - heartbeat.sentAt))
  }

  // MARK: Shutdown

  private mutating func receiveShutdown(_ chunk: Chunk, at now: Instant) {
    var value = chunk.value
    guard let ack = value.readInteger(as: UInt32.self) else { return violate("malformed SHUTDOWN") }
    acknowledge(through: TSN(ack))
    switch state {
    case .established, .shutdownPending:
      state = .shutdownReceived
      advanceShutdown(at: now)
    case .shutdownSent:
      state = .shutdownAckSent
      controlDue.insert(.shutdownAck)
    default: return
    }
  }

  private mutating func receiveShutdownAck(on carrier: CarrierID) {
    guard state == .shutdownSent || state == .shutdownAckSent else { return }
    var builder = PacketBuilder(header)
    builder.append(.shutdownComplete)
    transmit(builder.finish(), on: carrier)
    close()
  }

  private mutating func close() {
    state = .closed
    effects.append(.closed)
  }

  /// Once everything has been acknowledged, SHUTDOWN or SHUTDOWN ACK goes out (RFC 9260 section 9.2).
  mutating func advanceShutdown(at now: Instant) {
    guard pending.isEmpty, sent.isEmpty else { return }
    if state == .shutdownPending {
      state = .shutdownSent
      controlDue.insert(.shutdown)
    } else if state == .shutdownReceived {
      state = .shutdownAckSent
      controlDue.insert(.shutdownAck)
    } else {
      return
    }
    timers.shutdown = now + configuration.shutdownTimeout
  }

  mutating func retryShutdown(at now: Instant) {
    shutdownTries += 1
    guard shutdownTries <= configuration.shutdownRetries else { return fail(.shutdownTimedOut) }
    if state == .shutdownSent { controlDue.insert(.shutdown) }
    if state == .shutdownAckSent { controlDue.insert(.shutdownAck) }
    timers.shutdown = now + configuration.shutdownTimeout
  }
}

extension Array {
  /// The first index whose element satisfies `belongs`, in an array where all that do come last.
  func partitioningIndex(_ belongs: (Element) -> Bool) -> Int {
    var low = 0
    var high = count
    while low < high {
      let middle = (low + high) / 2
      if belongs(self[middle]) { high = middle } else { low = middle + 1 }
    }
    return low
  }
}
