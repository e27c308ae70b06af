import Vocabulary

/// What FORWARD-TSN says of one stream: nothing up to this SSN or MID will come any more.
struct SkippedMessages: Sendable, Hashable {
  var stream: StreamID
  var isUnordered = false
  /// The SSN in its lower half, or the MID.
  var identifier: UInt32
}

/// The receiving side of partial reliability (RFC 3758 section 3.6, RFC 8260 section 2.3).
extension Reassembly {
  /// The peer has given up what is missing up to `tsn`. Whole messages that waited for it are ready.
  mutating func forward(to tsn: TSN, _ skipped: [SkippedMessages]) {
    guard tsn.isAfter(cumulativeTSN) else { return }
    advance(to: tsn)
    if isInterleaved {
      for skip in skipped { skipInterleaved(Channel(stream: skip.stream.value, isUnordered: skip.isUnordered), through: skip.identifier) }
      return
    }
    // A run that begins at or before `tsn` and is still here is a piece of a message that was given up.
    let kept = runs.partitioningIndex { $0.first.isAfter(tsn) }
    for run in runs[..<kept] { octetsHeld -= run.octets }
    runs.removeFirst(kept)
    for skip in skipped { skipOrdered(skip.stream.value, through: SSN(UInt16(truncatingIfNeeded: skip.identifier))) }
  }

  private mutating func skipOrdered(_ stream: UInt16, through last: SSN) {
    let next = SSN(expected[stream, default: 0])
    guard !next.isAfter(last) else { return }
    let due = (waiting[stream] ?? [:]).keys.filter { !SSN($0).isAfter(last) }
    for number in due.sorted(by: { SSN($0).isBefore(SSN($1)) }) {
      guard let message = waiting[stream]?.removeValue(forKey: number) else { continue }
      octetsHeld -= message.payload.readableBytes
      ready.append(message)
    }
    expected[stream] = last.next.value
    deliverFollowers(of: stream)
  }
}
