import NIOCore
import Vocabulary

/// I-DATA (RFC 8260 section 2): the fragments of a message are counted by themselves, so those of other messages may stand between them.
extension Reassembly {
  struct Channel: Hashable, Sendable {
    var stream: UInt16
    var isUnordered: Bool
  }

  struct Partial: Sendable {
    var protocolIdentifier: UInt32?
    var last: UInt32?
    /// Ascending by FSN.
    var pieces: [(number: UInt32, payload: ByteBuffer)] = []
    var octets = 0

    var isWhole: Bool { protocolIdentifier != nil && last.map { pieces.count == Int($0) + 1 } ?? false }
  }

  /// What a piece costs beside its octets, counted against the window: messages of one octet in pieces cannot fill the memory. An array's element and its share of a table.
  static var octetsPerPiece: Int { 128 }

  /// Nil if the chunk fits with what has come, else what is wrong with it.
  mutating func assembleInterleaved(_ chunk: InboundChunk) -> String? {
    let channel = Channel(stream: chunk.stream.value, isUnordered: chunk.isUnordered)
    // Of a message that the peer has given up and we have skipped.
    if !chunk.isUnordered, MessageID(chunk.messageIdentifier).isBefore(MessageID(expectedMessages[chunk.stream.value] ?? 0)) { return nil }
    if chunk.begins, chunk.ends {
      guard partials[channel]?[chunk.messageIdentifier] == nil else { return "a message came twice" }
      return completeInterleaved(
        InboundMessage(stream: chunk.stream, protocolIdentifier: chunk.protocolIdentifier, payload: chunk.payload), channel,
        chunk.messageIdentifier)
    }
    // Taken out, so that it is changed in place and not copied for each of its pieces.
    var partial = partials[channel]?.removeValue(forKey: chunk.messageIdentifier) ?? Partial()
    if let fault = partial.add(chunk, kept(chunk.payload)) { return fault }
    guard partial.octets <= limit else { return "a message beyond the window" }
    guard partial.isWhole, let identifier = partial.protocolIdentifier else {
      octetsHeld += chunk.payload.readableBytes + Self.octetsPerPiece
      partials[channel, default: [:]][chunk.messageIdentifier] = partial
      return nil
    }
    if partials[channel]?.isEmpty == true { partials[channel] = nil }
    octetsHeld -= partial.octets - chunk.payload.readableBytes + (partial.pieces.count - 1) * Self.octetsPerPiece
    var whole = ByteBufferAllocator().buffer(capacity: partial.octets)
    for piece in partial.pieces { whole.writeImmutableBuffer(piece.payload) }
    return completeInterleaved(
      InboundMessage(stream: chunk.stream, protocolIdentifier: identifier, payload: whole), channel, chunk.messageIdentifier)
  }

  private mutating func completeInterleaved(_ message: InboundMessage, _ channel: Channel, _ number: UInt32) -> String? {
    if channel.isUnordered {
      ready.append(message)
      return nil
    }
    let next = expectedMessages[channel.stream] ?? 0
    if number == next {
      ready.append(message)
      expectedMessages[channel.stream] = next &+ 1
      if !waitingMessages.isEmpty { deliverWaiting(of: channel.stream) }
      return nil
    }
    guard waitingMessages[channel.stream]?[number] == nil else { return "a message came twice" }
    if octetsHeld > 2 * limit { return "more is out of order than the window holds" }
    var message = message
    message.payload = kept(message.payload)
    waitingMessages[channel.stream, default: [:]][number] = message
    octetsHeld += message.payload.readableBytes + Self.octetsPerPiece
    return nil
  }

  private mutating func deliverWaiting(of stream: UInt16) {
    var next = expectedMessages[stream] ?? 0
    while let follower = takeWaiting(stream, next) {
      ready.append(follower)
      next &+= 1
    }
    expectedMessages[stream] = next
  }

  private mutating func takeWaiting(_ stream: UInt16, _ number: UInt32) -> InboundMessage? {
    guard let message = waitingMessages[stream]?.removeValue(forKey: number) else { return nil }
    octetsHeld -= message.payload.readableBytes + Self.octetsPerPiece
    if waitingMessages[stream]?.isEmpty == true { waitingMessages[stream] = nil }
    return message
  }

  private mutating func forget(_ channel: Channel, _ number: UInt32) {
    guard let partial = partials[channel]?.removeValue(forKey: number) else { return }
    octetsHeld -= partial.octets + partial.pieces.count * Self.octetsPerPiece
    if partials[channel]?.isEmpty == true { partials[channel] = nil }
  }

  /// The peer has given up all messages of a channel up to this one that have not come.
  mutating func skipInterleaved(_ channel: Channel, through number: UInt32) {
    let through = MessageID(number)
    for old in (partials[channel] ?? [:]).keys.sorted() where !MessageID(old).isAfter(through) { forget(channel, old) }
    guard !channel.isUnordered else { return }
    let next = expectedMessages[channel.stream] ?? 0
    guard !MessageID(next).isAfter(through) else { return }
    let due = (waitingMessages[channel.stream] ?? [:]).keys.filter { !MessageID($0).isAfter(through) }
    for old in due.sorted(by: { MessageID($0).isBefore(MessageID($1)) }) {
      if let message = takeWaiting(channel.stream, old) { ready.append(message) }
    }
    expectedMessages[channel.stream] = number &+ 1
    deliverWaiting(of: channel.stream)
  }

  mutating func resetInterleaved(_ stream: UInt16) {
    expectedMessages[stream] = nil
    for number in (waitingMessages[stream] ?? [:]).keys.sorted() { _ = takeWaiting(stream, number) }
    for isUnordered in [false, true] {
      let channel = Channel(stream: stream, isUnordered: isUnordered)
      for number in (partials[channel] ?? [:]).keys.sorted() { forget(channel, number) }
    }
  }
}

extension Reassembly.Partial {
  fileprivate mutating func add(_ chunk: InboundChunk, _ payload: ByteBuffer) -> String? {
    let number = chunk.begins ? 0 : chunk.fragmentNumber
    let index = pieces.last.map { $0.number < number } ?? true ? pieces.count : pieces.partitioningIndex { $0.number >= number }
    guard index == pieces.count || pieces[index].number != number else { return "a fragment came twice" }
    guard chunk.begins || number > 0 else { return "a first fragment without its mark" }
    if chunk.ends {
      guard last == nil, index == pieces.count else { return "fragments behind the last one" }
      last = number
    } else if let last, number > last {
      return "fragments behind the last one"
    }
    if chunk.begins { protocolIdentifier = chunk.protocolIdentifier }
    pieces.insert((number, payload), at: index)
    octets += chunk.payload.readableBytes
    return nil
  }
}
