import DequeModule
import NIOCore
import Vocabulary

/// One DATA chunk as it came.
struct InboundChunk: Sendable {
  var tsn: TSN
  var stream: StreamID
  var sequence: SSN
  var protocolIdentifier: UInt32
  var flags: UInt8
  var payload: ByteBuffer
  /// MID and FSN, of an I-DATA chunk.
  var messageIdentifier: UInt32 = 0
  var fragmentNumber: UInt32 = 0

  var begins: Bool { flags & DataFlags.beginning != 0 }
  var ends: Bool { flags & DataFlags.end != 0 }
  var isUnordered: Bool { flags & DataFlags.unordered != 0 }
}

/// A whole user message.
struct InboundMessage: Sendable {
  var stream: StreamID
  var protocolIdentifier: UInt32
  var payload: ByteBuffer
}

/// What has come of the peer's DATA: which TSNs, the fragments of messages that are not whole yet, and whole messages that wait for their turn.
///
/// A whole unordered message is ready at once, an ordered one when it is next on its stream, whatever is missing of other streams
/// (RFC 9260 sections 6.5 to 6.7). What is ready is not held: the layer above has its own credit.
struct Reassembly: Sendable {
  enum Outcome: Sendable, Hashable {
    case accepted, duplicate
    /// There was no room for it, or it lies too far ahead; the peer will send it again.
    case dropped
    case violation(String)
  }

  struct Range: Sendable, Hashable {
    var first: TSN
    var last: TSN
  }

  /// Consecutive fragments of one message: its TSNs are consecutive (RFC 9260 section 6.9).
  struct Run: Sendable {
    var first: TSN
    var last: TSN
    var chunk: InboundChunk
    var begins: Bool
    var ends: Bool
    var pieces: [ByteBuffer]
    var octets: Int

    func isOfOneMessage(with other: InboundChunk) -> Bool {
      chunk.stream == other.stream && chunk.isUnordered == other.isUnordered && (chunk.isUnordered || chunk.sequence == other.sequence)
    }
  }

  /// Gaps at once. Each costs a search and a place in an array; 4,096 of them with packets of 1,200 octets are 10 MB under way with every other one lost. The peer sends again what is dropped.
  static let maximumRanges = 4_096

  private(set) var cumulativeTSN: TSN
  /// I-DATA comes, and no DATA.
  var isInterleaved = false
  /// The peer may give messages up (FORWARD-TSN), so pieces of them may be left over.
  var mayBeForwarded = false
  /// TSNs above a gap, ascending; none touches another or the cumulative TSN.
  private(set) var ranges: [Range] = []
  var octetsHeld = 0
  /// Messages whose turn has come; the owner takes them out.
  var ready: Deque<InboundMessage> = []

  let limit: Int
  /// Ascending by TSN: about one for each gap, and one for the message that is coming in.
  var runs: [Run] = []
  var expected: [UInt16: UInt16] = [:]
  var waiting: [UInt16: [UInt16: InboundMessage]] = [:]
  // The same for I-DATA; see `Reassembly+Interleaving`.
  var partials: [Channel: [UInt32: Partial]] = [:]
  var expectedMessages: [UInt16: UInt32] = [:]
  var waitingMessages: [UInt16: [UInt32: InboundMessage]] = [:]

  /// - Parameter limit: octets that are held for messages in pieces or out of turn: what the window offers.
  init(after tsn: TSN, limit: Int) {
    cumulativeTSN = tsn
    self.limit = limit
  }

  var hasGap: Bool { !ranges.isEmpty }
  var streamsKept: Int { expected.count + expectedMessages.count + waiting.count + waitingMessages.count + partials.count }
  /// What the peer may still send.
  var window: Int { max(0, limit - octetsHeld) }

  mutating func receive(_ chunk: InboundChunk) -> Outcome {
    let distance = chunk.tsn.distance(from: cumulativeTSN)
    if distance <= 0 || isAboveGap(chunk.tsn) { return .duplicate }
    let octets = chunk.payload.readableBytes
    if octetsHeld + octets > limit, !(chunk.begins && chunk.ends && distance == 1) {
      // Zero window (RFC 9260 section 6.2): what lies above the highest TSN is dropped, what fills a gap displaces the highest. The next TSN is always
      // taken, or an association whose window is full of half messages would stand still for ever.
      let hasRoom = makeRoom(for: octets, above: chunk.tsn)
      guard hasRoom || distance == 1 else { return .dropped }
      if !hasRoom, octetsHeld > 2 * limit { return .violation("more is out of order than the window holds") }
    }
    guard distance <= 65_535 else { return .dropped }  // gap blocks have 16 bits
    guard distance == 1 || ranges.count < Self.maximumRanges else { return .dropped }
    let fault = isInterleaved ? assembleInterleaved(chunk) : assemble(chunk, isNext: distance == 1)
    if let fault { return .violation(fault) }
    note(chunk.tsn, isNext: distance == 1)
    return .accepted
  }

  /// Acknowledges a chunk that is not kept: it was for a stream that does not exist.
  mutating func discard(_ tsn: TSN) -> Outcome {
    let distance = tsn.distance(from: cumulativeTSN)
    if distance <= 0 || isAboveGap(tsn) { return .duplicate }
    guard distance <= 65_535 else { return .dropped }
    note(tsn, isNext: distance == 1)
    return .accepted
  }

  /// The peer's streams begin anew; none named: all. What still waits on them was never to come.
  mutating func reset(_ streams: [StreamID]) {
    var streams = streams
    if streams.isEmpty {
      let all = Set(expected.keys).union(waiting.keys).union(expectedMessages.keys).union(waitingMessages.keys).union(
        partials.keys.map(\.stream))
      streams = all.sorted().map { StreamID($0) }
    }
    for stream in streams {
      if isInterleaved { resetInterleaved(stream.value) }
      expected[stream.value] = nil
      if !waiting.isEmpty { drop(waiting.removeValue(forKey: stream.value)) }
    }
  }

  private mutating func drop(_ messages: [UInt16: InboundMessage]?) {
    octetsHeld -= messages?.values.reduce(0) { $0 + $1.payload.readableBytes } ?? 0
  }

  // MARK: TSNs

  mutating func advance(to tsn: TSN) {
    cumulativeTSN = tsn
    while let first = ranges.first, !first.first.isAfter(cumulativeTSN.next) {
      if first.last.isAfter(cumulativeTSN) { cumulativeTSN = first.last }
      ranges.removeFirst()
    }
  }

  private func isAboveGap(_ tsn: TSN) -> Bool {
    guard let last = ranges.last, !tsn.isAfter(last.last) else { return false }
    let index = ranges.partitioningIndex { !$0.last.isBefore(tsn) }
    return !ranges[index].first.isAfter(tsn)
  }

  private mutating func note(_ tsn: TSN, isNext: Bool) {
    if isNext {
      cumulativeTSN = tsn
      if let first = ranges.first, first.first == tsn.next {
        cumulativeTSN = first.last
        ranges.removeFirst()
      }
      return
    }
    let index = ranges.partitioningIndex { $0.first.isAfter(tsn) }
    let joinsBelow = index > 0 && ranges[index - 1].last.next == tsn
    let joinsAbove = index < ranges.count && ranges[index].first == tsn.next
    switch (joinsBelow, joinsAbove) {
    case (true, true):
      ranges[index - 1].last = ranges[index].last
      ranges.remove(at: index)
    case (true, false): ranges[index - 1].last = tsn
    case (false, true): ranges[index].first = tsn
    case (false, false): ranges.insert(Range(first: tsn, last: tsn), at: index)
    }
  }

  /// Drops the highest fragments while they lie above `tsn`; true if the room is there then.
  private mutating func makeRoom(for octets: Int, above tsn: TSN) -> Bool {
    if isInterleaved { return false }  // which fragment has the highest TSN is not known here, and nothing needs it
    while octetsHeld + octets > limit {
      guard let top = ranges.last, let run = runs.last, run.last == top.last, top.last.isAfter(tsn) else { return false }
      let index = runs.count - 1
      let dropped = runs[index].pieces.removeLast().readableBytes
      octetsHeld -= dropped
      runs[index].octets -= dropped
      runs[index].ends = false
      if runs[index].pieces.isEmpty { runs.removeLast() } else { runs[index].last = run.last.previous }
      if top.first == top.last { ranges.removeLast() } else { ranges[ranges.count - 1].last = top.last.previous }
    }
    return true
  }

  // MARK: Fragments

  /// Nil if the chunk fits with its neighbours, else what is wrong with it.
  private mutating func assemble(_ chunk: InboundChunk, isNext: Bool) -> String? {
    if runs.isEmpty, chunk.begins, chunk.ends { return complete(chunk, chunk.payload, isNext: isNext) }
    let index = runs.partitioningIndex { $0.first.isAfter(chunk.tsn) }
    let below = index > 0 && runs[index - 1].last.next == chunk.tsn ? index - 1 : nil
    let above = index < runs.count && runs[index].first == chunk.tsn.next ? index : nil
    if mayBeForwarded, isLeftOver(chunk, below, isNext) { return nil }
    if let below, !mayBeForwarded || !chunk.begins {
      guard runs[below].ends == chunk.begins else { return "fragments of two messages are mixed" }
      guard runs[below].ends || runs[below].isOfOneMessage(with: chunk) else { return "fragments of two streams are mixed" }
    } else if isNext, !chunk.begins {
      return "fragments of two messages are mixed"
    }
    if let above, !mayBeForwarded || !runs[above].begins {
      guard runs[above].begins == chunk.ends else { return "fragments of two messages are mixed" }
      guard chunk.ends || runs[above].isOfOneMessage(with: chunk) else { return "fragments of two streams are mixed" }
    }
    if chunk.begins, chunk.ends { return complete(chunk, chunk.payload, isNext: isNext) }
    return join(
      chunk, below: chunk.begins ? nil : below, above: chunk.ends || above.map { runs[$0].begins } == true ? nil : above, at: index,
      isNext: isNext)
  }

  /// A fragment of a message whose beginning was given up: its TSN counts, it does not.
  private func isLeftOver(_ chunk: InboundChunk, _ below: Int?, _ isNext: Bool) -> Bool {
    guard !chunk.begins else { return false }
    return below.map { runs[$0].ends || !runs[$0].isOfOneMessage(with: chunk) } ?? isNext
  }

  private mutating func join(_ chunk: InboundChunk, below: Int?, above: Int?, at index: Int, isNext: Bool) -> String? {
    let octets = chunk.payload.readableBytes
    octetsHeld += octets
    var place = index
    // Of a run its first chunk says what message it is; the octets are in the pieces.
    var head = chunk
    head.payload = ByteBuffer()
    if let below {
      place = below
      runs[below].last = chunk.tsn
      runs[below].ends = chunk.ends
      runs[below].pieces.append(kept(chunk.payload))
      runs[below].octets += octets
      if let above {
        let rest = runs.remove(at: above)
        runs[below].last = rest.last
        runs[below].ends = rest.ends
        runs[below].pieces.append(contentsOf: rest.pieces)
        runs[below].octets += rest.octets
      }
    } else if let above {
      place = above
      runs[above].first = chunk.tsn
      runs[above].chunk = head
      runs[above].begins = chunk.begins
      runs[above].pieces.insert(kept(chunk.payload), at: 0)
      runs[above].octets += octets
    } else {
      let run = Run(
        first: chunk.tsn, last: chunk.tsn, chunk: head, begins: chunk.begins, ends: chunk.ends, pieces: [kept(chunk.payload)],
        octets: octets)
      runs.insert(run, at: index)
    }
    guard runs[place].octets <= limit else { return "a message beyond the window" }
    guard runs[place].begins, runs[place].ends else { return nil }
    let run = runs.remove(at: place)
    octetsHeld -= run.octets
    var whole = ByteBufferAllocator().buffer(capacity: run.octets)
    for piece in run.pieces { whole.writeImmutableBuffer(piece) }
    return complete(run.chunk, whole, isNext: isNext)
  }

  /// What is held for long should not keep alive a whole read (128 KiB) for the sake of some octets.
  func kept(_ payload: ByteBuffer) -> ByteBuffer {
    payload.readableBytes * 8 < payload.storageCapacity ? ByteBufferAllocator().buffer(buffer: payload) : payload
  }

  // MARK: Order

  private mutating func complete(_ chunk: InboundChunk, _ payload: ByteBuffer, isNext: Bool) -> String? {
    var message = InboundMessage(stream: chunk.stream, protocolIdentifier: chunk.protocolIdentifier, payload: payload)
    if chunk.isUnordered {
      ready.append(message)
      return nil
    }
    let stream = chunk.stream.value
    var next = expected[stream, default: 0]
    if chunk.sequence.value != next {
      if mayBeForwarded, chunk.sequence.isBefore(SSN(next)) { return nil }  // it was skipped
      guard chunk.sequence.isAfter(SSN(next)), waiting[stream]?[chunk.sequence.value] == nil else {
        return "a stream sequence number came twice"
      }
      // All before it is here, so there is nothing that it could wait for; without this a peer could make us hold what no window bounds.
      guard !isNext || mayBeForwarded else { return "a stream sequence number was left out" }
      if octetsHeld > 2 * limit { return "more is out of order than the window holds" }
      message.payload = kept(payload)
      waiting[stream, default: [:]][chunk.sequence.value] = message
      octetsHeld += payload.readableBytes
      return nil
    }
    ready.append(message)
    next &+= 1
    expected[stream] = next
    if !waiting.isEmpty { deliverFollowers(of: stream) }
    return nil
  }

  mutating func deliverFollowers(of stream: UInt16) {
    var next = expected[stream, default: 0]
    while let follower = waiting[stream]?.removeValue(forKey: next) {
      octetsHeld -= follower.payload.readableBytes
      ready.append(follower)
      next &+= 1
    }
    if waiting[stream]?.isEmpty == true { waiting[stream] = nil }
    expected[stream] = next
  }
}
