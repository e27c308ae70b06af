import NIOCore
import Vocabulary

extension Association {
  /// Takes a user message. False: the send buffer is full, or the stream is being reset, and `.sendSpace` will come.
  ///
  /// - Parameter endOfWrite: nothing follows for now, so the peer should acknowledge at once (the I bit, RFC 9260 section 3.3.1).
  package mutating func send(
    _ payload: ByteBuffer, stream: StreamID, protocolIdentifier: UInt32, isUnordered: Bool = false, endOfWrite: Bool,
    reliability: Reliability = .full
  ) -> Bool {
    precondition(payload.readableBytes > 0, "a user message has at least one octet")
    guard sendSpace > 0, !queue.isResetting(stream) else {
      sendWasRefused = true
      return false
    }
    octetsQueued += payload.readableBytes
    statistics.messagesSent += 1
    if reliability != .full { limitsReliability = true }
    queue.append(
      OutboundMessage(
        stream: stream, protocolIdentifier: protocolIdentifier, isUnordered: isUnordered, endsWrite: endOfWrite, reliability: reliability,
        payload: payload))
    return true
  }

  /// A stream's rank (`.priority`, the lowest first) or share (`.weightedFair`).
  package mutating func setWeight(_ weight: UInt16, of stream: StreamID) { queue.setWeight(weight, of: stream) }

  /// The header of a DATA chunk, or of an I-DATA chunk.
  @inline(__always)
  var dataHeader: Int { usesInterleaving ? 20 : 16 }

  /// Common header 12, chunk header, and on reliable carriers room for a SACK without gap blocks (16). AUTH where every packet has it.
  @inline(__always)
  private var largestFragment: Int {
    let rest = hasDatagramCarrier ? (authenticatesAll ? algorithm?.chunkLength ?? 0 : 0) : 16
    return (fragmentLimit & ~3) - 12 - dataHeader - rest
  }

  /// Packs what is lost first, then what is new, as far as the packet and the peer's window go.
  mutating func appendData(to builder: inout PacketBuilder, on carrier: CarrierID, at now: Instant) {
    guard lostCount > 0 || (!queue.isEmpty && mayStartNew) else { return }
    let limit = dataPacketLimit(of: carrier)
    // A SACK rides along with DATA whenever something has come since the last one.
    if packetsSinceSACK > 0, !sackIsDue, builder.length + 16 <= limit { appendSACK(to: &builder, within: limit) }
    if lostCount > 0 { appendLost(to: &builder, on: carrier, within: limit, at: now) }
    if lostCount == 0 { appendNew(to: &builder, on: carrier, within: limit, at: now) }
  }

  private mutating func appendNew(to builder: inout PacketBuilder, on carrier: CarrierID, within limit: Int, at now: Instant) {
    if limitsReliability { dropExpired(at: now) }
    let largest = largestFragment
    while mayStartNew, let head = queue.headLength(), fits(min(head, largest), in: builder, within: limit),
      hasWindow(for: min(head, largest)),
      let chunk = queue.take(upTo: largest)
    {
      write(chunk, nextTSN, to: &builder)
      octetsInFlight += chunk.payload.readableBytes
      statistics.octetsSent += chunk.payload.readableBytes
      carriers[carrier]?.octetsCarried += chunk.payload.readableBytes
      transmissionOrder += 1
      sent.append(SentChunk(tsn: nextTSN, chunk: chunk, carrier: carrier, sentAt: now, order: transmissionOrder))
      if hasDatagramCarrier { notePath(carrier, nextTSN, chunk.payload.readableBytes, isFirst: true, isOldest: false, at: now) }
      nextTSN = nextTSN.next
      if hasDatagramCarrier, carriers[carrier]?.path?.hasRoom == false { break }
      if limitsReliability { dropExpired(at: now) }
    }
    queue.packetEnded()
  }

  /// The window spans at most 65,535 TSNs (gap blocks have 16 bits).
  @inline(__always)
  private var mayStartNew: Bool {
    guard state == .established || state == .shutdownPending || state == .shutdownReceived else { return false }
    return sent.count < 65_535 && (mayOverrun || octetsInFlight < peerWindow)
  }

  @inline(__always)
  private func hasWindow(for octets: Int) -> Bool { mayOverrun || octetsInFlight + octets <= peerWindow }

  /// The window may be overrun by one chunk when nothing is in flight (RFC 9260 section 6.1 rule A). On a reliable carrier only by the TSN that the peer takes whatever its window is, the
  /// one behind all that it has: behind messages that were given up it may drop it, and no timer would bring it back.
  @inline(__always)
  private var mayOverrun: Bool { octetsInFlight == 0 && (hasDatagramCarrier || sent.isEmpty) }

  @inline(__always)
  private func fits(_ octets: Int, in builder: PacketBuilder, within limit: Int) -> Bool {
    builder.length + dataHeader + octets + padding(octets) <= limit || builder.isBare
  }

  private mutating func appendLost(to builder: inout PacketBuilder, on carrier: CarrierID, within limit: Int, at now: Instant) {
    // Of a dead carrier all that the peer has not got is lost, and stands together at the front.
    guard let first = sent.first else { return }
    for index in max(0, lostCursor.distance(from: first.tsn))..<sent.count where sent[index].isLost {
      if limitsReliability, isExpired(sent[index], at: now) {
        abandon(at: index, at: now)
        if lostCount == 0 { return }
        continue
      }
      guard fits(sent[index].chunk.payload.readableBytes, in: builder, within: limit) else { return }
      let octets = sent[index].chunk.payload.readableBytes
      transmissionOrder += 1
      sent[index].isLost = false
      sent[index].carrier = carrier
      sent[index].sentAt = now
      sent[index].order = transmissionOrder
      sent[index].transmissions = min(sent[index].transmissions, 254) + 1
      sent[index].missingReports = 0
      lostCount -= 1
      lostCursor = sent[index].tsn
      write(sent[index].chunk, sent[index].tsn, to: &builder)
      octetsInFlight += octets
      if hasDatagramCarrier { notePath(carrier, sent[index].tsn, octets, isFirst: false, isOldest: index == 0, at: now) }
      statistics.chunksRetransmitted += 1
      statistics.octetsRetransmitted += octets
      carriers[carrier]?.octetsCarried += octets
      if lostCount == 0 { return }
    }
  }

  /// A chunk goes out on a path: its octets are on the way, and its T3 runs (RFC 9260 section 6.3.2).
  private mutating func notePath(_ id: CarrierID, _ tsn: TSN, _ octets: Int, isFirst: Bool, isOldest: Bool, at now: Instant) {
    guard var path = carriers[id]?.path else { return }
    path.resume(at: now)
    path.inFlight += octets
    if isFirst, path.measured == nil { path.measured = tsn }
    if !isFirst, path.measured == tsn { path.measured = nil }
    if path.retransmission == nil || isOldest { path.retransmission = now + path.rto }
    carriers[id]?.path = path
  }

  // MARK: Datagrams

  /// One packet for a datagram carrier: lost chunks where they are to go, else new ones, with the SACK beside them or on its own.
  mutating func datagramPacket(at now: Instant) -> Effect? {
    // No closures here: one that reads `self` copies all of it.
    var lost: CarrierID?
    if lostCount > 0, let candidate = lostDataCarrier, maySendData(on: candidate) { lost = candidate }
    guard let target = lost ?? newDataCarrier else { return nil }
    var builder = startPacket()
    appendControl(to: &builder, at: now)
    if sackIsDue { appendSACK(to: &builder, within: packetLimit(of: target)) }
    let before = statistics.octetsSent + statistics.octetsRetransmitted
    if lost != nil || (lostCount == 0 && maySendData(on: target)) { appendData(to: &builder, on: target, at: now) }
    if builder.isBare { return nil }
    if statistics.octetsSent + statistics.octetsRetransmitted > before {
      carriers[target]?.path?.burst -= 1
      carriers[target]?.path?.mayExceedWindow = false
      return .transmit(finish(builder), on: target)
    }
    // Without DATA it goes where the peer's DATA came from.
    if let answer = lastDataCarrier, carriers[answer] != nil { return .transmit(finish(builder), on: answer) }
    return .transmit(finish(builder), on: target)
  }

  private mutating func maySendData(on id: CarrierID) -> Bool {
    guard let carrier = carriers[id], carrier.isWritable, let path = carrier.path, path.status != .unconfirmed else { return false }
    if path.inFlight == 0, path.burst <= 0 { allowBurst(on: id) }
    guard path.inFlight == 0 || path.burst > 0 else { return false }
    return path.hasRoom || (path.mayExceedWindow && lostCount > 0)
  }

  private func write(_ chunk: OutboundChunk, _ tsn: TSN, to builder: inout PacketBuilder) {
    builder.append(usesInterleaving ? .interleavedData : .data, flags: chunk.flags) { bytes in
      bytes.writeInteger(tsn.value)
      bytes.writeInteger(chunk.stream.value)
      if usesInterleaving {
        bytes.writeInteger(UInt16(0))
        bytes.writeInteger(chunk.identifier)
        bytes.writeInteger(chunk.begins ? chunk.protocolIdentifier : chunk.fragment)
        bytes.writeImmutableBuffer(chunk.payload)
        return
      }
      bytes.writeInteger(UInt16(truncatingIfNeeded: chunk.identifier))
      bytes.writeInteger(chunk.protocolIdentifier)
      bytes.writeImmutableBuffer(chunk.payload)
    }
  }

  // MARK: Acknowledgements

  mutating func receiveSACK(_ chunk: Chunk, at now: Instant) {
    var value = chunk.value
    guard let ack = value.readInteger(as: UInt32.self), let window = value.readInteger(as: UInt32.self),
      let blocks = value.readInteger(as: UInt16.self),
      value.readInteger(as: UInt16.self) != nil
    else { return violate("malformed SACK") }
    let cumulative = TSN(ack)
    guard !cumulative.isBefore(peerCumulativeAck) else { return }  // an old one
    guard cumulative.isBefore(nextTSN) else { return violate("SACK of a TSN that was never sent") }
    if hasDatagramCarrier { beginSACK() }
    acknowledge(through: cumulative, at: now)
    var last = 0
    var ranges: [ClosedRange<Int>] = []
    for _ in 0..<blocks {
      guard let start = value.readInteger(as: UInt16.self), let end = value.readInteger(as: UInt16.self), start >= 1, start <= end else {
        return violate("malformed gap block")
      }
      guard Int(start) > last else { break }  // blocks ascend; what does not is not worth the search
      last = Int(end)
      acknowledge(gapFrom: Int(start), to: last, at: now)
      if hasDatagramCarrier { ranges.append(Int(start)...last) }
    }
    peerWindow = Int(window)
    if limitsReliability { advanceAck() }
    if hasDatagramCarrier {
      if window == 0 { forgiveErrors() }
      if gapAcknowledged > 0 { findReneged(ranges) }
      endSACK(ranges, at: now)
    }
    advanceShutdown(at: now)
    tellSendSpace()
  }

  mutating func tellSendSpace() {
    guard sendWasRefused, sendSpace > 0 else { return }
    sendWasRefused = false
    effects.append(.sendSpace)
  }

  mutating func acknowledge(through cumulative: TSN, at now: Instant) {
    guard cumulative.isBefore(nextTSN), cumulative.isAfter(peerCumulativeAck) else { return }
    peerCumulativeAck = cumulative
    while let first = sent.first, !first.tsn.isAfter(cumulative) {
      sent.removeFirst()
      octetsQueued -= first.chunk.payload.readableBytes
      if first.isAcknowledged { gapAcknowledged -= 1 } else if hasDatagramCarrier { credit(first, isCumulative: true, at: now) }
      leaveFlight(first)
    }
  }

  /// Gap blocks count from the cumulative TSN; `sent` begins right behind it.
  private mutating func acknowledge(gapFrom start: Int, to end: Int, at now: Instant) {
    for offset in start...end {
      let index = offset - 1
      guard index < sent.count else { return }
      guard !sent[index].isAcknowledged else { continue }
      if hasDatagramCarrier { credit(sent[index], isCumulative: false, at: now) }
      leaveFlight(sent[index])
      sent[index].isAcknowledged = true
      sent[index].isLost = false
      sent[index].missingReports = 0
      gapAcknowledged += 1
    }
  }

  mutating func leaveFlight(_ chunk: SentChunk) {
    if chunk.isAcknowledged { return }
    if chunk.isLost {
      lostCount -= 1
      return
    }
    octetsInFlight -= chunk.chunk.payload.readableBytes
    if hasDatagramCarrier { carriers[chunk.carrier]?.path?.inFlight -= chunk.chunk.payload.readableBytes }
  }

  /// Everything that was sent and that the peer has not got goes out again: its carrier is gone, or fenced, and on the new one nothing has been sent yet.
  mutating func loseAllInFlight() {
    for index in sent.indices where sent[index].isOnTheWay {
      leaveFlight(sent[index])
      sent[index].isLost = true
      lostCount += 1
    }
    if let first = sent.first { lostCursor = first.tsn }
    streamRequests.outstanding?.mustSend = true
    if limitsReliability { forwardIsDue = advancedAck.isAfter(peerCumulativeAck) }
  }

  /// A datagram carrier has gone: what was on the way there goes out again elsewhere, at once.
  mutating func loseAll(ofClosed id: CarrierID) {
    for index in sent.indices where sent[index].carrier == id && sent[index].isOnTheWay {
      markLost(at: index, isInFlight: true)
    }
    if lastDataCarrier == id { lastDataCarrier = nil }
    refreshFragmentLimit()
  }
}
