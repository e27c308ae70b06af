import NIOCore
import Vocabulary

/// Messages that are not worth sending for ever (RFC 3758; RFC 8260 section 2.3 with I-DATA).
extension Association {
  /// A chunk that would be sent again has had its time or its tries.
  func isExpired(_ chunk: SentChunk, at now: Instant) -> Bool {
    guard usesPartialReliability else { return false }
    switch chunk.chunk.reliability {
    case .full: return false
    case .until(let end): return now > end
    case .retransmissions(let count): return Int(chunk.transmissions) > Int(count)
    }
  }

  /// Messages at the head of the queue whose time is over: they go without a TSN, unless they have begun.
  mutating func dropExpired(at now: Instant) {
    while let message = queue.head(), case .until(let end) = message.reliability, now > end, usesPartialReliability || !message.hasBegun {
      if message.hasBegun, let index = sent.lastIndex(where: { $0.chunk.belongs(to: message) }) {
        abandon(at: index, at: now)
        continue
      }
      _ = queue.dropHead()
      release(message)
      if message.hasBegun { endGivenUp(message, at: now) }  // its fragments have all been acknowledged
      tell(message.stream, message.protocolIdentifier, wasSent: message.hasBegun)
    }
  }

  /// Gives up the message of a chunk: all its fragments, those that have not been sent too (RFC 3758 section 3.5, A3).
  mutating func abandon(at index: Int, at now: Instant) {
    let chunk = sent[index].chunk
    // Backwards to its first fragment, forwards to its last: with I-DATA others stand between them.
    var first = index
    while first > 0, !(sent[first].chunk.begins && sent[first].chunk.isOfOneMessage(with: chunk)) { first -= 1 }
    for place in first..<sent.count where sent[place].chunk.isOfOneMessage(with: chunk) {
      giveUp(at: place)
      if sent[place].chunk.flags & DataFlags.end != 0 { break }
    }
    if let rest = queue.dropRest(of: chunk) {
      release(rest)
      endGivenUp(rest, at: now)
    }
    tell(chunk.stream, chunk.protocolIdentifier, wasSent: true)
    advanceAck()
  }

  private mutating func giveUp(at index: Int) {
    guard !sent[index].isAbandoned else { return }
    leaveFlight(sent[index])
    sent[index].isLost = false
    sent[index].isAbandoned = true
    octetsQueued -= sent[index].chunk.payload.readableBytes
    sent[index].chunk.payload = ByteBuffer()
  }

  private mutating func release(_ message: OutboundMessage) { octetsQueued -= message.payload.readableBytes }

  /// The last fragment of a message that was given up on its way: it takes a TSN that is never sent. So the peer needs a FORWARD-TSN even if it has all fragments that were
  /// sent, and does not find the next message's first fragment behind one that is not the last.
  private mutating func endGivenUp(_ message: OutboundMessage, at now: Instant) {
    let end = OutboundChunk(
      stream: message.stream, flags: DataFlags.end | (message.isUnordered ? DataFlags.unordered : 0), identifier: message.identifier,
      fragment: message.fragments, protocolIdentifier: message.protocolIdentifier, reliability: .full, payload: ByteBuffer())
    var chunk = SentChunk(tsn: nextTSN, chunk: end, carrier: activeCarrier ?? CarrierID(0), sentAt: now, order: transmissionOrder)
    chunk.isAbandoned = true
    sent.append(chunk)
    nextTSN = nextTSN.next
    advanceAck()
  }

  private mutating func tell(_ stream: StreamID, _ protocolIdentifier: UInt32, wasSent: Bool) {
    statistics.messagesAbandoned += 1
    effects.append(.abandoned(stream: stream, protocolIdentifier: protocolIdentifier, wasSent: wasSent))
    tellSendSpace()
  }

  // MARK: FORWARD-TSN

  /// Moves the Advanced.Peer.Ack.Point over what was given up; if the peer is behind it, it is told (RFC 3758 section 3.5, C1 to C3).
  mutating func advanceAck() {
    advancedAck = peerCumulativeAck
    for chunk in sent {
      guard chunk.isAbandoned else { break }
      advancedAck = chunk.tsn
    }
    forwardIsDue = advancedAck.isAfter(peerCumulativeAck)
    if !forwardIsDue { timers.forward = nil }
  }

  mutating func retryForward(at now: Instant) {
    guard advancedAck.isAfter(peerCumulativeAck) else { return }
    forwardIsDue = true
    chargeUnanswered(at: now)
  }

  mutating func forwardPacket(on carrier: CarrierID, at now: Instant) -> Effect? {
    forwardIsDue = false
    guard usesPartialReliability else { return nil }
    var builder = startPacket()
    let room = (packetLimit(of: carrier) - builder.length - 8) / (usesInterleaving ? 8 : 4)
    var skipped: [SkippedMessages] = []
    var point = peerCumulativeAck
    for chunk in sent {
      guard chunk.isAbandoned else { break }
      // DATA: only ordered messages have a number to skip; I-DATA: all have.
      if usesInterleaving || !chunk.chunk.isUnordered {
        let this = SkippedMessages(stream: chunk.chunk.stream, isUnordered: chunk.chunk.isUnordered, identifier: chunk.chunk.identifier)
        if let index = skipped.lastIndex(where: { $0.stream == this.stream && $0.isUnordered == this.isUnordered }) {
          skipped[index] = this
        } else {
          // As far as the packet goes; the rest follows when the peer has got here.
          if skipped.count == min(room, Self.maximumSkipped) { break }
          skipped.append(this)
        }
      }
      point = chunk.tsn
    }
    guard point.isAfter(peerCumulativeAck) else { return nil }
    let isInterleaved = usesInterleaving
    builder.append(isInterleaved ? .interleavedForwardTSN : .forwardTSN) { bytes in
      bytes.writeInteger(point.value)
      for skip in skipped {
        bytes.writeInteger(skip.stream.value)
        if isInterleaved {
          bytes.writeInteger(UInt16(skip.isUnordered ? 1 : 0))
          bytes.writeInteger(skip.identifier)
        } else {
          bytes.writeInteger(UInt16(truncatingIfNeeded: skip.identifier))
        }
      }
    }
    timers.forward = carriers[carrier]?.path.map { now + $0.rto }
    return .transmit(finish(builder), on: carrier)
  }

  /// Streams named by one FORWARD-TSN: a search among them precedes each.
  private static var maximumSkipped: Int { 256 }

  mutating func receiveForwardTSN(_ chunk: Chunk) {
    var value = chunk.value
    guard let point = value.readInteger(as: UInt32.self) else { return violate("malformed FORWARD-TSN") }
    var skipped: [SkippedMessages] = []
    while let stream = value.readInteger(as: UInt16.self), let second = value.readInteger(as: UInt16.self) {
      var skip = SkippedMessages(stream: StreamID(stream), identifier: UInt32(second))
      if usesInterleaving {
        guard let identifier = value.readInteger(as: UInt32.self) else { return violate("malformed I-FORWARD-TSN") }
        skip.isUnordered = second & 1 != 0
        skip.identifier = identifier
      }
      if stream < inboundStreams { skipped.append(skip) }
    }
    // Farther than any window: nothing that was sent can be meant.
    guard TSN(point).distance(from: inbound.cumulativeTSN) <= 65_535 else {
      return violate("FORWARD-TSN beyond everything that can have been sent")
    }
    inbound.forward(to: TSN(point), skipped)
    handReady()
  }
}

extension OutboundChunk {
  fileprivate func isOfOneMessage(with other: OutboundChunk) -> Bool {
    stream == other.stream && isUnordered == other.isUnordered && identifier == other.identifier
  }

  fileprivate func belongs(to message: OutboundMessage) -> Bool {
    stream == message.stream && isUnordered == message.isUnordered && identifier == message.identifier
  }
}
