import DequeModule
import HeapModule
import NIOCore
import Vocabulary

/// A user message, or what of it has no TSN yet.
struct OutboundMessage: Sendable {
  var stream: StreamID
  var protocolIdentifier: UInt32
  var isUnordered: Bool
  /// Its last fragment bears the I bit.
  var endsWrite: Bool
  var reliability: Reliability
  var payload: ByteBuffer
  /// Its place in its stream: the SSN is the lower half, the MID the whole. Given with its first fragment, so that a message that is dropped before takes none.
  var identifier: UInt32 = 0
  /// Fragments that have been cut off; the next one's FSN.
  var fragments: UInt32 = 0

  var hasBegun: Bool { fragments > 0 }
}

/// Messages that wait to be sent, and which stream is next (RFC 8260 section 3). Fragments are cut when they leave, so that they fit the paths of that moment.
struct SendQueue: Sendable {
  struct Stream: Sendable {
    var nextOrdered: UInt32 = 0
    var nextUnordered: UInt32 = 0
    /// Under first come, first served all messages stand in one queue, and this one is empty.
    var messages = Deque<OutboundMessage>()
    /// Messages of this stream that have not left to their end.
    var queued = 0
    /// Where it stands in virtual time when its next message begins.
    var finish: UInt64 = 0
    /// A rank (priority) or a share (weighted fair queueing).
    var weight: UInt16 = 0
    /// Its outgoing sequence numbers begin anew as soon as the peer has agreed: nothing is sent until then.
    var isResetting = false

    var isForgettable: Bool { queued == 0 && nextOrdered == 0 && nextUnordered == 0 && weight == 0 && !isResetting }
  }

  /// A stream that wants to send. Lowest rank first, then the one that has waited longer.
  private struct Turn: Comparable, Sendable {
    var rank: UInt64
    var order: UInt64
    var stream: UInt16

    static func < (a: Turn, b: Turn) -> Bool { a.rank == b.rank ? a.order < b.order : a.rank < b.rank }
  }

  /// Virtual time counts 1,024 for each octet of a stream of weight one, so that weights up to 1,024 keep their proportions.
  private static let timePerOctet: UInt64 = 1_024
  /// What a chunk costs beside its octets: its header, so that small messages are not free.
  private static let octetsPerChunk = 16

  let scheduler: StreamScheduler
  /// I-DATA: fragments of several messages may alternate.
  var interleaves = false
  /// Octets of messages that may have begun and not ended at once: the peer holds them all, and a window full of pieces would never be whole.
  var interleavingLimit = Int.max
  private(set) var count = 0
  private(set) var streams: [UInt16: Stream] = [:]

  private var inOrder = Deque<OutboundMessage>()
  private var turns = Heap<Turn>()
  private var lastTurn: UInt64 = 0
  private var virtualTime: UInt64 = 0
  /// The stream whose chunk is next; it is not among `turns`.
  private var current: UInt16?
  private var begunOctets = 0
  private var fragmentSize = 0
  /// Streams that are being reset, those that are not ready too.
  private var resetting = 0
  /// Streams that are to be reset and have nothing left to send, in the order in which they came to that.
  private(set) var readyToReset = Deque<UInt16>()
  /// Streams whose next message has to wait until others have ended.
  private var heldBack = Deque<(stream: UInt16, octets: Int)>()

  init(_ scheduler: StreamScheduler) { self.scheduler = scheduler }

  var isEmpty: Bool { count == 0 }
}

// MARK: - In

extension SendQueue {
  mutating func append(_ message: OutboundMessage) {
    count += 1
    let key = message.stream.value
    if scheduler == .firstCome {
      streams[key, default: Stream()].queued += 1
      inOrder.append(message)
      return
    }
    if streams[key, default: Stream()].push(message), current != key { enter(key) }
  }

  mutating func setWeight(_ weight: UInt16, of stream: StreamID) { streams[stream.value, default: Stream()].weight = weight }

  private mutating func enter(_ key: UInt16) {
    guard let index = streams.index(forKey: key), !streams.values[index].messages.isEmpty else { return }
    let rank: UInt64
    switch scheduler {
    case .firstCome, .roundRobin, .roundRobinPerPacket: rank = 0
    case .priority: rank = UInt64(streams.values[index].weight)
    case .fairCapacity, .weightedFair:
      rank = max(streams.values[index].finish, virtualTime)
      streams.values[index].finish = rank
    }
    lastTurn += 1
    turns.insert(Turn(rank: rank, order: lastTurn, stream: key))
  }
}

// MARK: - Out

extension SendQueue {
  /// The message whose fragment is next.
  mutating func head() -> OutboundMessage? {
    if scheduler == .firstCome { return inOrder.first }
    while true {
      if current == nil {
        guard let turn = turns.popMin() else { return nil }
        current = turn.stream
        if scheduler == .fairCapacity || scheduler == .weightedFair { virtualTime = max(virtualTime, turn.rank) }
      }
      guard let key = current, let message = streams[key]?.messages.first else {
        current = nil
        continue
      }
      if !mustWait(message) { return message }
      heldBack.append((key, message.payload.readableBytes))
      current = nil
    }
  }

  /// It would be one message too many that has begun. One that goes in a single piece never is.
  private func mustWait(_ message: OutboundMessage) -> Bool {
    guard interleaves, !message.hasBegun, begunOctets > 0, message.payload.readableBytes > fragmentSize else { return false }
    return begunOctets + message.payload.readableBytes > interleavingLimit
  }

  /// Octets that are left of `head`.
  mutating func headLength() -> Int? {
    if scheduler == .firstCome { return inOrder.isEmpty ? nil : inOrder[0].payload.readableBytes }
    return head()?.payload.readableBytes
  }

  /// Cuts the next fragment off `head`, at most so many octets.
  mutating func take(upTo limit: Int) -> OutboundChunk? {
    if scheduler == .firstCome, !inOrder.isEmpty, !inOrder[0].hasBegun, inOrder[0].payload.readableBytes <= limit { return takeWhole() }
    guard var message = head() else { return nil }
    fragmentSize = limit
    let key = message.stream.value
    let isFirst = !message.hasBegun
    if isFirst { message.identifier = streams[key, default: Stream()].number(isUnordered: message.isUnordered) }
    let whole = message.payload.readableBytes
    guard let payload = message.payload.readSlice(length: min(limit, whole)) else { return nil }
    let isLast = message.payload.readableBytes == 0
    var flags = message.isUnordered ? DataFlags.unordered : 0
    if isFirst { flags |= DataFlags.beginning }
    if isLast { flags |= DataFlags.end | (message.endsWrite ? DataFlags.immediate : 0) }
    let chunk = OutboundChunk(
      stream: message.stream, flags: flags, identifier: message.identifier, fragment: message.fragments,
      protocolIdentifier: message.protocolIdentifier, reliability: message.reliability, payload: payload)
    message.fragments += 1
    if interleaves {
      if isFirst, !isLast { begunOctets += whole }
      if !isFirst { begunOctets -= payload.readableBytes }
      if isFirst, !isLast { begunOctets -= payload.readableBytes }
    }
    put(message, key, isLast: isLast, charged: payload.readableBytes)
    return chunk
  }

  /// The usual case of the usual scheduler: a message that goes in one piece, with one look at its stream.
  private mutating func takeWhole() -> OutboundChunk {
    let message = inOrder.removeFirst()
    let key = message.stream.value
    count -= 1
    let (number, isReady) = streams[key, default: Stream()].pass(isUnordered: message.isUnordered)
    if isReady { readyToReset.append(key) }
    let flags = DataFlags.beginning | DataFlags.end | (message.isUnordered ? DataFlags.unordered : 0)
    return OutboundChunk(
      stream: message.stream, flags: message.endsWrite ? flags | DataFlags.immediate : flags, identifier: number, fragment: 0,
      protocolIdentifier: message.protocolIdentifier, reliability: message.reliability, payload: message.payload)
  }

  private mutating func put(_ message: OutboundMessage, _ key: UInt16, isLast: Bool, charged octets: Int) {
    if isLast { count -= 1 }
    if scheduler == .firstCome {
      if isLast {
        inOrder.removeFirst()
        leave(key)
      } else {
        inOrder[0] = message
      }
      return
    }
    guard let index = streams.index(forKey: key) else { return }
    if isLast {
      streams.values[index].messages.removeFirst()
      if streams.values[index].leave() { readyToReset.append(key) }
    } else {
      streams.values[index].messages[0] = message
    }
    let share = scheduler == .weightedFair ? max(1, UInt64(streams.values[index].weight)) : 1
    streams.values[index].finish += UInt64(octets + Self.octetsPerChunk) * Self.timePerOctet / share
    if isLast || interleaves, scheduler != .roundRobinPerPacket { yieldTurn() }
    if isLast, interleaves { letIn() }
  }

  /// A packet has been filled: under round robin per packet it is the next stream's turn.
  mutating func packetEnded() {
    guard scheduler == .roundRobinPerPacket, let current else { return }
    if !interleaves, streams[current]?.messages.first?.hasBegun == true { return }
    yieldTurn()
  }

  private mutating func yieldTurn() {
    guard let key = current else { return }
    current = nil
    enter(key)
  }

  private mutating func letIn() {
    while let next = heldBack.first, begunOctets == 0 || begunOctets + next.octets <= interleavingLimit {
      heldBack.removeFirst()
      enter(next.stream)
      if begunOctets == 0 { return }  // it may be larger than the limit, and goes alone
    }
  }
}

// MARK: - Giving up

extension SendQueue {
  /// Drops what is left of `head`, and says what it was.
  mutating func dropHead() -> OutboundMessage? {
    guard let message = head() else { return nil }
    drop(message)
    return message
  }

  /// What is left of the message that a sent fragment belongs to; it is dropped. Only the first message of a stream can have begun.
  mutating func dropRest(of chunk: OutboundChunk) -> OutboundMessage? {
    let first = scheduler == .firstCome ? inOrder.first : streams[chunk.stream.value]?.messages.first
    guard let first, first.hasBegun, first.stream == chunk.stream, first.identifier == chunk.identifier,
      first.isUnordered == chunk.isUnordered
    else { return nil }
    drop(first)
    return first
  }

  private mutating func drop(_ message: OutboundMessage) {
    let key = message.stream.value
    count -= 1
    leave(key)
    if interleaves, message.hasBegun { begunOctets -= message.payload.readableBytes }
    if scheduler == .firstCome {
      inOrder.removeFirst()
    } else {
      streams[key]?.messages.removeFirst()
      if current == key { yieldTurn() }
    }
    if interleaves { letIn() }
  }
}

// MARK: - Streams

extension SendQueue {
  func isResetting(_ stream: StreamID) -> Bool { resetting > 0 && streams[stream.value]?.isResetting ?? false }

  /// Nothing more is taken for this stream; once what it has has left, it is among `readyToReset`.
  mutating func beginReset(of stream: StreamID) {
    guard !isResetting(stream) else { return }
    resetting += 1
    streams[stream.value, default: Stream()].isResetting = true
    if streams[stream.value]?.queued == 0 { readyToReset.append(stream.value) }
  }

  mutating func takeReadyToReset(atMost limit: Int) -> [StreamID] {
    let taken = readyToReset.prefix(limit).map { StreamID($0) }
    readyToReset.removeFirst(taken.count)
    return taken.sorted()
  }

  private mutating func leave(_ key: UInt16) {
    guard let index = streams.index(forKey: key), streams.values[index].leave() else { return }
    readyToReset.append(key)
  }

  /// Its numbers begin anew (or, if it was refused, go on).
  mutating func endReset(of stream: StreamID, isDone: Bool) {
    guard let index = streams.index(forKey: stream.value), streams.values[index].isResetting else { return }
    resetting -= 1
    streams.values[index].isResetting = false
    if isDone {
      streams.values[index].nextOrdered = 0
      streams.values[index].nextUnordered = 0
    }
    if streams.values[index].isForgettable { streams.remove(at: index) }
  }
}

extension SendQueue.Stream {
  /// True if it had none.
  fileprivate mutating func push(_ message: OutboundMessage) -> Bool {
    messages.append(message)
    queued += 1
    return messages.count == 1
  }

  /// A message has left or was dropped. True if the stream can be reset now.
  fileprivate mutating func leave() -> Bool {
    queued -= 1
    return isResetting && queued == 0
  }

  fileprivate mutating func pass(isUnordered: Bool) -> (number: UInt32, isReady: Bool) { (number(isUnordered: isUnordered), leave()) }

  fileprivate mutating func number(isUnordered: Bool) -> UInt32 {
    if isUnordered {
      defer { nextUnordered &+= 1 }
      return nextUnordered
    }
    defer { nextOrdered &+= 1 }
    return nextOrdered
  }
}
