import NIOCore
import Vocabulary

extension Association {
  /// Takes a user message. False: the send buffer is full, and `.sendSpace` will come.
  ///
  /// - Parameter endOfWrite: nothing follows for now, so the peer should acknowledge at once (the I bit, RFC 9260 section 3.3.1).
  package mutating func send(_ payload: ByteBuffer, stream: StreamID, protocolIdentifier: UInt32, endOfWrite: Bool) -> Bool {
    precondition(payload.readableBytes > 0, "a user message has at least one octet")
    guard sendSpace > 0 else {
      sendWasRefused = true
      return false
    }
    var rest = payload
    let sequence = sequenceNumbers[stream.value, default: 0]
    sequenceNumbers[stream.value] = sequence &+ 1
    octetsQueued += payload.readableBytes
    statistics.messagesSent += 1
    var flags = DataFlags.beginning
    while let part = rest.readSlice(length: min(rest.readableBytes, largestFragment)), part.readableBytes > 0 {
      if rest.readableBytes == 0 { flags |= DataFlags.end | (endOfWrite ? DataFlags.immediate : 0) }
      pending.append(
        OutboundChunk(stream: stream, sequence: SSN(sequence), protocolIdentifier: protocolIdentifier, flags: flags, payload: part))
      flags = 0
    }
    return true
  }

  /// Common header 12, chunk header 16, and room for a SACK without gap blocks (16).
  private var largestFragment: Int { configuration.maximumPacketSize - 12 - 16 - 16 }

  /// Packs what is lost first, then what is new, as far as the packet and the peer's window go.
  mutating func appendData(to builder: inout PacketBuilder, at now: Instant) {
    guard lostCount > 0 || (!pending.isEmpty && mayStartNew) else { return }
    // A SACK rides along with DATA whenever something has come since the last one.
    if packetsSinceSACK > 0, !sackIsDue, builder.length + 16 <= configuration.maximumPacketSize { appendSACK(to: &builder) }
    if lostCount > 0 { appendLost(to: &builder) }
    while lostCount == 0, mayStartNew, let chunk = pending.first, fits(chunk, in: builder) {
      pending.removeFirst()
      write(chunk, nextTSN, to: &builder)
      octetsInFlight += chunk.payload.readableBytes
      statistics.octetsSent += chunk.payload.readableBytes
      sent.append(SentChunk(tsn: nextTSN, chunk: chunk))
      nextTSN = nextTSN.next
    }
  }

  /// The window may be overrun by one chunk when nothing is in flight (RFC 9260 section 6.1 rule A), and spans at most 65,535 TSNs (gap blocks have 16 bits).
  private var mayStartNew: Bool {
    guard state == .established || state == .shutdownPending || state == .shutdownReceived else { return false }
    guard let chunk = pending.first, sent.count < 65_535 else { return false }
    return octetsInFlight == 0 || octetsInFlight + chunk.payload.readableBytes <= peerWindow
  }

  private func fits(_ chunk: OutboundChunk, in builder: PacketBuilder) -> Bool {
    builder.length + 16 + chunk.payload.readableBytes + padding(chunk.payload.readableBytes) <= configuration.maximumPacketSize
      || builder.isEmpty
  }

  private mutating func appendLost(to builder: inout PacketBuilder) {
    // Lost chunks stand together at the front: all of a dead carrier that the peer has not got.
    guard let first = sent.first else { return }
    for index in max(0, lostCursor.distance(from: first.tsn))..<sent.count where sent[index].isLost {
      guard fits(sent[index].chunk, in: builder) else { return }
      sent[index].isLost = false
      lostCount -= 1
      lostCursor = sent[index].tsn
      write(sent[index].chunk, sent[index].tsn, to: &builder)
      let octets = sent[index].chunk.payload.readableBytes
      octetsInFlight += octets
      statistics.chunksRetransmitted += 1
      statistics.octetsRetransmitted += octets
      if lostCount == 0 { return }
    }
  }

  private func write(_ chunk: OutboundChunk, _ tsn: TSN, to builder: inout PacketBuilder) {
    builder.append(.data, flags: chunk.flags) { bytes in
      bytes.writeInteger(tsn.value)
      bytes.writeInteger(chunk.stream.value)
      bytes.writeInteger(chunk.sequence.value)
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
    acknowledge(through: cumulative)
    var last = 0
    for _ in 0..<blocks {
      guard let start = value.readInteger(as: UInt16.self), let end = value.readInteger(as: UInt16.self), start >= 1, start <= end else {
        return violate("malformed gap block")
      }
      guard Int(start) > last else { break }  // blocks ascend; what does not is not worth the search
      last = Int(end)
      acknowledge(gapFrom: Int(start), to: last)
    }
    peerWindow = Int(window)
    advanceShutdown(at: now)
    if sendWasRefused, sendSpace > 0 {
      sendWasRefused = false
      effects.append(.sendSpace)
    }
  }

  mutating func acknowledge(through cumulative: TSN) {
    guard cumulative.isBefore(nextTSN), cumulative.isAfter(peerCumulativeAck) else { return }
    peerCumulativeAck = cumulative
    while let first = sent.first, !first.tsn.isAfter(cumulative) {
      sent.removeFirst()
      octetsQueued -= first.chunk.payload.readableBytes
      leaveFlight(first)
    }
  }

  /// Gap blocks count from the cumulative TSN; `sent` begins right behind it.
  private mutating func acknowledge(gapFrom start: Int, to end: Int) {
    for offset in start...end {
      let index = offset - 1
      guard index < sent.count else { return }
      guard !sent[index].isAcknowledged else { continue }
      leaveFlight(sent[index])
      sent[index].isAcknowledged = true
      sent[index].isLost = false
    }
  }

  private mutating func leaveFlight(_ chunk: SentChunk) {
    if chunk.isAcknowledged { return }
    if chunk.isLost { lostCount -= 1 } else { octetsInFlight -= chunk.chunk.payload.readableBytes }
  }

  /// Everything that was sent and that the peer has not got goes out again: its carrier is gone, or fenced, and on the new one nothing has been sent yet.
  mutating func loseAllInFlight() {
    for index in sent.indices where !sent[index].isAcknowledged && !sent[index].isLost {
      sent[index].isLost = true
      lostCount += 1
      octetsInFlight -= sent[index].chunk.payload.readableBytes
    }
    if let first = sent.first { lostCursor = first.tsn }
  }
}
