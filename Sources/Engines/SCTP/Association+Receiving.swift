import NIOCore
import Vocabulary

extension Association {
  /// A packet has come on a carrier. Whatever is wrong with it, it costs at most its own carrier.
  package mutating func receive(_ bytes: ByteBuffer, on carrier: CarrierID, at now: Instant) {
    let packet: Packet
    do throws(PacketError) { packet = try Packet(bytes) } catch {
      statistics.packetsDropped += 1
      guard state != .closed, carriers[carrier] != nil else { return }
      if hasDatagramCarrier, carriers[carrier]?.path != nil { return }  // it is lost, as others are
      // On TCP a damaged packet means that the framing itself is lost.
      return closeCarrier(carrier, "damaged packet: \(error)", at: now)
    }
    take(packet, on: carrier, at: now)
  }

  mutating func take(_ packet: Packet, on carrier: CarrierID, at now: Instant) {
    guard state != .closed, carriers[carrier] != nil else {  // fenced carriers are unknown ones
      statistics.packetsDropped += 1
      return
    }
    if hasDatagramCarrier { allowBurst(on: carrier) }
    if carriers[carrier]?.path != nil, meetsHandshake(packet, on: carrier, at: now) { return }
    guard packet.header.verificationTag == localVerificationTag || isReflectedEnd(packet) else {
      statistics.packetsDropped += 1
      return
    }
    statistics.packetsReceived += 1
    let first = packet.chunks[0]
    guard first.known == .authentication else { return process(packet, from: 0, on: carrier, isAuthenticated: false, at: now) }
    guard !key.isEmpty, Authentication.verifies(first, in: packet, key: key, configuration, by: authenticator) else {
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
      guard carrier == activeCarrier || chunk.known == .asconf || carriers[carrier]?.path != nil else {
        statistics.packetsDropped += 1
        break chunks
      }
      if carrier == activeCarrier { lastHeard = now }
      switch negotiated(chunk) {
      case .data, .interleavedData:
        guard state == .established || state == .shutdownPending || state == .shutdownSent else { continue }
        guard (chunk.known == .interleavedData) == usesInterleaving else { return violate("DATA where I-DATA was agreed upon") }
        guard let data = usesInterleaving ? readInterleavedData(chunk) : readData(chunk) else { return refuseData(chunk) }
        hasData = true
        lastDataCarrier = carrier
        if data.flags & DataFlags.immediate != 0 { wantsSACKNow = true }
        receive(data, on: carrier)
      case .sack: receiveSACK(chunk, at: now)
      case .initiationAck: receiveInitiationAck(chunk, at: now)
      case .cookieAck: receiveCookieAck(at: now)
      case .cookieEcho:
        // Case D of RFC 9260 section 5.2.4: our COOKIE ACK was lost with something, say it again.
        if isAuthenticated || !usesAuthentication { controlDue.insert(.cookieAck) }
      case .heartbeat:
        if heartbeatAcks.count < Self.maximumAnswers { heartbeatAcks.append((chunk.value, carrier)) }
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
        // The peer has forgotten the association already, its SHUTDOWN COMPLETE was lost: both sides had acknowledged everything.
        if state == .shutdownAckSent, chunk.flags & 1 == 1 { return close() }
        var value = chunk.value
        return fail(.peerAborted(value.readCause()))
      case .error: receiveError(chunk, at: now)
      case .shutdown: receiveShutdown(chunk, at: now)
      case .shutdownAck: receiveShutdownAck(on: carrier, tag: packet.header.verificationTag)
      case .shutdownComplete:
        guard state == .shutdownAckSent else { continue }
        close()
      case .reconfiguration: receiveReconfiguration(chunk, at: now)
      case .initiation, .authentication, .padding: continue
      case .forwardTSN, .interleavedForwardTSN:
        guard isPastHandshake else { continue }
        receiveForwardTSN(chunk)
        hasData = true
        wantsSACKNow = true
      case .congestionExperienced, .windowReduced: continue  // ECN was not agreed upon; RFC 9260 keeps the numbers
      case nil:
        // The upper bits of an unknown type say whether the rest of the packet is looked at (RFC 9260 section 3.2).
        if chunk.type & 0x40 != 0 { report(unrecognized: chunk, on: carrier) }
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

  /// The type of a chunk, if it is one that we have agreed upon: others are as good as unknown.
  private func negotiated(_ chunk: Chunk) -> ChunkType? {
    let type = chunk.known
    switch type {
    case .reconfiguration: return usesStreamReset ? type : nil
    case .interleavedData: return usesInterleaving ? type : nil
    case .forwardTSN: return usesPartialReliability && !usesInterleaving ? type : nil
    case .interleavedForwardTSN: return usesPartialReliability && usesInterleaving ? type : nil
    default: return type
    }
  }

  mutating func violate(_ what: String, _ cause: ErrorCause = .protocolViolation) {
    if let carrier = activeCarrier {
      var builder = startPacket()
      builder.append(.abort) { $0.writeReason(cause, what) }
      transmit(finish(builder), on: carrier)
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
    if !streamRequests.deferred.isEmpty { performDeferredResets() }
    packetsSinceSACK += 1
    if wantsSACKNow || packetsSinceSACK >= 2 || inbound.hasGap || !duplicates.isEmpty || state == .shutdownSent {
      sackIsDue = true
      timers.sack = nil
      // DATA that crossed our SHUTDOWN: it is said again with the SACK (RFC 9260 section 9.2).
      if state == .shutdownSent, hasDatagramCarrier { controlDue.insert(.shutdown) }
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

  private func readInterleavedData(_ chunk: Chunk) -> InboundChunk? {
    var value = chunk.value
    guard let tsn = value.readInteger(as: UInt32.self), let stream = value.readInteger(as: UInt16.self),
      value.readInteger(as: UInt16.self) != nil, let message = value.readInteger(as: UInt32.self),
      let number = value.readInteger(as: UInt32.self), value.readableBytes > 0
    else { return nil }
    let begins = chunk.flags & DataFlags.beginning != 0
    return InboundChunk(
      tsn: TSN(tsn), stream: StreamID(stream), sequence: SSN(0), protocolIdentifier: begins ? number : 0, flags: chunk.flags,
      payload: value,
      messageIdentifier: message, fragmentNumber: begins ? 0 : number)
  }

  /// DATA of a stream that does not exist: it is acknowledged, reported and dropped (RFC 9260 section 6.5).
  private mutating func refuse(_ chunk: InboundChunk, on carrier: CarrierID) -> Reassembly.Outcome {
    let outcome = inbound.discard(chunk.tsn)
    guard outcome == .accepted, errorsToSend.count < Self.maximumErrors else { return outcome }
    var cause = ByteBuffer()
    cause.writeCause(.invalidStream) {
      $0.writeInteger(chunk.stream.value)
      $0.writeInteger(UInt16(0))
    }
    errorsToSend.append((cause, carrier))
    return outcome
  }

  private mutating func receive(_ chunk: InboundChunk, on carrier: CarrierID) {
    if !streamRequests.deferred.isEmpty, isBeyondReset(chunk) {
      // Datagrams come again; on a reliable carrier no correct peer can have sent it.
      if !hasDatagramCarrier { violate("DATA of a stream whose reset has not been answered") }
      return
    }
    switch chunk.stream.value < inboundStreams ? inbound.receive(chunk) : refuse(chunk, on: carrier) {
    case .accepted: handReady()
    case .duplicate:
      statistics.duplicatesReceived += 1
      if duplicates.count < 64 { duplicates.append(chunk.tsn) }
    case .dropped: sackIsDue = true
    case .violation(let what): violate(what)
    }
  }

  mutating func handReady() { while let message = inbound.ready.popFirst() { hand(message) } }

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

  // MARK: HEARTBEAT

  private mutating func receiveHeartbeatAck(_ chunk: Chunk, on carrier: CarrierID, at now: Instant) {
    guard let list = Parameter.list(in: chunk.value), var info = list.first?.value, let nonce = info.readInteger(as: UInt64.self)
    else { return }
    if hasDatagramCarrier { receivePathHeartbeatAck(nonce, at: now) }
    guard let heartbeat, heartbeat.nonce == nonce else { return }
    self.heartbeat = nil
    effects.append(.roundTrip(carrier, now - heartbeat.sentAt))
  }

  // MARK: Shutdown

  private mutating func receiveShutdown(_ chunk: Chunk, at now: Instant) {
    var value = chunk.value
    guard let ack = value.readInteger(as: UInt32.self) else { return violate("malformed SHUTDOWN") }
    acknowledge(through: TSN(ack), at: now)
    switch state {
    case .established, .shutdownPending:
      state = .shutdownReceived
      advanceShutdown(at: now)
    case .shutdownReceived: advanceShutdown(at: now)  // its cumulative TSN may have been the SACK that was lost
    case .shutdownSent:
      state = .shutdownAckSent
      controlDue.insert(.shutdownAck)
    case .shutdownAckSent: if isOnDatagrams { controlDue.insert(.shutdownAck) }
    default: return
    }
  }

  private mutating func receiveShutdownAck(on carrier: CarrierID, tag: UInt32) {
    if state == .cookieWait || state == .cookieEchoed {
      // The peer ends an association of before: it is told with its own tag that this is over (RFC 9260 section 8.5.1, E).
      var builder = PacketBuilder(
        PacketHeader(sourcePort: header.sourcePort, destinationPort: header.destinationPort, verificationTag: tag))
      builder.append(.shutdownComplete, flags: 1)
      return transmit(builder.finish(), on: carrier)
    }
    guard state == .shutdownSent || state == .shutdownAckSent else { return }
    var builder = startPacket()
    builder.append(.shutdownComplete)
    transmit(finish(builder), on: carrier)
    close()
  }

  mutating func close() {
    state = .closed
    effects.append(.closed)
  }

  /// Once everything has been acknowledged, SHUTDOWN or SHUTDOWN ACK goes out (RFC 9260 section 9.2).
  mutating func advanceShutdown(at now: Instant) {
    guard queue.isEmpty, sent.isEmpty else { return }
    if state == .shutdownPending {
      state = .shutdownSent
      controlDue.insert(.shutdown)
    } else if state == .shutdownReceived {
      state = .shutdownAckSent
      controlDue.insert(.shutdownAck)
    } else {
      return
    }
    timers.shutdown = now + shutdownInterval
  }

  /// T2: the RTO of the path, or what a reliable carrier is given.
  private var shutdownInterval: TimeSpan { activeCarrier.flatMap { carriers[$0]?.path?.rto } ?? configuration.shutdownTimeout }

  mutating func retryShutdown(at now: Instant) {
    shutdownTries += 1
    let limit = isOnDatagrams ? configuration.paths.associationRetransmissions : configuration.shutdownRetries
    guard shutdownTries <= limit else { return fail(.shutdownTimedOut) }
    if let active = activeCarrier { backOff(active) }
    if state == .shutdownSent { controlDue.insert(.shutdown) }
    if state == .shutdownAckSent { controlDue.insert(.shutdownAck) }
    timers.shutdown = now + shutdownInterval
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
