import Vocabulary

/// SACK and T3-rtx on datagram carriers: what is lost, and how much may be on the way (RFC 9260 sections 6.2.1, 6.3.3 and 7.2).
extension Association {
  /// A SACK with this many gap blocks may have been cut short by its packet's size, so what lies above its last block is not taken as reneged.
  private static var blocksThatMayBeCut: Int { 64 }

  /// The counters of a SACK start at zero.
  mutating func beginSACK() {
    for id in sortedCarriers {
      guard var path = carriers[id]?.path else { continue }
      path.beginSACK()
      carriers[id]?.path = path
    }
  }

  /// A chunk has been acknowledged for the first time.
  mutating func credit(_ chunk: SentChunk, isCumulative: Bool, at now: Instant) {
    guard var path = carriers[chunk.carrier]?.path else { return }
    let octets = chunk.chunk.payload.readableBytes
    path.newlyAcked += octets
    if isCumulative { path.hasAdvanced = true }
    path.latestAcked = max(path.latestAcked, chunk.order)
    if path.measured == chunk.tsn {
      path.measured = nil
      if chunk.transmissions == 1 {
        path.measure(now - chunk.sentAt, configuration.paths)
        effects.append(.roundTrip(chunk.carrier, now - chunk.sentAt))
      }
    }
    carriers[chunk.carrier]?.path = path
  }

  /// Chunks that were acknowledged by a gap block and are not any more: the peer has dropped them (RFC 9260 section 6.2.1, D iii).
  mutating func findReneged(_ blocks: [ClosedRange<Int>]) {
    guard blocks.count < Self.blocksThatMayBeCut else { return }
    var covered = 0
    for block in blocks where block.lowerBound <= sent.count { covered += min(block.upperBound, sent.count) - block.lowerBound + 1 }
    guard covered < gapAcknowledged else { return }
    var block = 0
    for index in sent.indices where sent[index].isAcknowledged {
      while block < blocks.count, blocks[block].upperBound < index + 1 { block += 1 }
      if block < blocks.count, blocks[block].contains(index + 1) {
        sent[index].missingReports = 0
        continue
      }
      // A SACK that was overtaken says the same once; where nothing else is on the way there may be no second one.
      sent[index].missingReports += 1
      guard octetsInFlight == 0 || sent[index].missingReports >= 3 else { continue }
      sent[index].isAcknowledged = false
      gapAcknowledged -= 1
      if sent[index].isAbandoned { continue }
      markLost(at: index, isInFlight: false)
    }
  }

  /// Growth, fast retransmit and T3 of every path, once the SACK has been read.
  mutating func endSACK(_ blocks: [ClosedRange<Int>], at now: Instant) {
    findMissing(between: blocks)
    var hasProgress = false
    for id in sortedCarriers {
      guard var path = carriers[id]?.path else { continue }
      path.leaveRecovery(at: peerCumulativeAck)
      if path.newlyAcked > 0 {
        hasProgress = true
        path.errors = 0
        if path.status == .failed { revive(id, &path, at: now) }
        path.grow()
      }
      if path.inFlight == 0 {
        path.retransmission = nil
      } else if path.hasAdvanced || path.retransmission == nil {
        path.retransmission = now + path.rto
      }
      path.burst = configuration.paths.maximumBurst
      let isRevived = path.status != carriers[id]?.path?.status
      carriers[id]?.path = path
      if isRevived { refreshFragmentLimit() }
    }
    // A peer that says its window is shut is alive (RFC 9260 section 6.1, rule A).
    if hasProgress || peerWindow == 0 { associationErrors = 0 }
    if peerWindow == 0, let active = activeCarrier { carriers[active]?.path?.errors = 0 }
  }

  /// Three reports from chunks that were sent later on the same path mark a chunk as lost: a switch of paths makes no burst (facts of section 7.2.4).
  /// Only what lies between the blocks is looked at: of tens of thousands of small messages above a gap a few are missing.
  private mutating func findMissing(between blocks: [ClosedRange<Int>]) {
    var next = 0
    for block in blocks {
      findMissing(in: next..<max(next, min(block.lowerBound - 1, sent.count)))
      next = block.upperBound
    }
  }

  private mutating func findMissing(in indices: Range<Int>) {
    for index in indices {
      let chunk = sent[index]
      guard chunk.isOnTheWay, !chunk.wasFastRetransmitted,
        let path = carriers[chunk.carrier]?.path, path.latestAcked > chunk.order
      else { continue }
      sent[index].missingReports += 1
      guard sent[index].missingReports >= 3 else { continue }
      sent[index].wasFastRetransmitted = true
      statistics.fastRetransmits += 1
      markLost(at: index, isInFlight: true)
      let highest = nextTSN.previous
      carriers[chunk.carrier]?.path?.enterRecovery(until: highest)
    }
  }

  mutating func markLost(at index: Int, isInFlight: Bool) {
    if isInFlight { leaveFlight(sent[index]) }
    if lostCount == 0 || sent[index].tsn.isBefore(lostCursor) { lostCursor = sent[index].tsn }
    sent[index].isLost = true
    lostCount += 1
  }

  /// T3-rtx of one path has expired: all that is on the way there is lost, and its oldest go out again in one packet.
  mutating func loseAll(on id: CarrierID, at now: Instant) {
    statistics.timeouts += 1
    for index in sent.indices where sent[index].carrier == id && sent[index].isOnTheWay {
      markLost(at: index, isInFlight: true)
    }
    let limits = configuration.paths
    carriers[id]?.path?.timeOut(limits)
    if let errors = carriers[id]?.path?.errors, errors + 1 >= PathMTU.doubtfulTimeouts, carriers[id]?.path?.packetSize.doubt() == true {
      packetSizeChanged(on: id)
    }
    charge(id, at: now)
  }
}
