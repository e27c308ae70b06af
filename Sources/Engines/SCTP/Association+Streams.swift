import NIOCore
import Vocabulary

/// Streams that begin anew, and more streams (RFC 6525).
extension Association {
  /// Our direction of these streams begins anew: what was sent on them arrives first, then the peer hears of it, and `.streamsReset` follows. Until then `send` takes
  /// nothing for them. False if the peer cannot.
  package mutating func resetStreams(_ streams: [StreamID]) -> Bool {
    guard state == .established, usesStreamReset else { return false }
    for stream in streams where stream.value < peerInboundStreams { queue.beginReset(of: stream) }
    return true
  }

  /// Asks the peer to reset its direction of these streams, at most `StreamRequests.maximumStreamsPerRequest`.
  package mutating func askToReset(_ streams: [StreamID]) -> Bool {
    precondition(streams.count <= StreamRequests.maximumStreamsPerRequest)
    return ask(.resetIncoming(streams))
  }

  /// So many more streams in this direction. `.streamsAdded` follows, or `.streamRequestRefused`.
  package mutating func addStreams(_ count: UInt16, _ direction: StreamDirection) -> Bool {
    let have = direction == .outgoing ? peerInboundStreams : inboundStreams
    guard count > 0, Int(have) + Int(count) <= Self.maximumStreams else { return false }
    return ask(direction == .outgoing ? .addOutgoing(count) : .addIncoming(count))
  }

  /// Streams 0 to 65,534 each way: 65,535 is the most that INIT can say.
  static var maximumStreams: Int { 65_535 }

  private mutating func ask(_ request: StreamRequest) -> Bool {
    guard state == .established, usesStreamReset, streamRequests.waiting.count < StreamRequests.maximumWaiting else { return false }
    streamRequests.waiting.append(request)
    return true
  }

  // MARK: Sending

  /// A RE-CONFIG chunk: an answer of ours, or the request that is out.
  mutating func streamRequestPacket(on carrier: CarrierID, at now: Instant) -> Effect? {
    if streamRequests.outstanding == nil, state == .established { beginStreamRequest(on: carrier) }
    guard streamRequests.hasSomethingToSay else { return nil }
    var body: ByteBuffer
    // Answers wait for a carrier that takes them: a peer that asks without end and reads nothing must not fill its socket.
    if let answer = streamRequests.answers.first, carriers[carrier]?.path != nil || carriers[carrier]?.isWritable == true {
      streamRequests.answers.removeFirst()
      body = answer
    } else if let outstanding = streamRequests.outstanding, outstanding.mustSend {
      streamRequests.outstanding?.mustSend = false
      body = outstanding.chunk
      timers.streamRequest = carriers[carrier]?.path.map { now + $0.rto }  // section 5.1.1: the T3 of its destination
    } else {
      return nil
    }
    var builder = startPacket()
    builder.append(.reconfiguration) { $0.writeBuffer(&body) }
    return .transmit(finish(builder), on: carrier)
  }

  private mutating func beginStreamRequest(on carrier: CarrierID) {
    let last = nextTSN.previous
    if let request = streamRequests.waiting.popFirst() { return streamRequests.begin(request, lastTSN: last) }
    guard !queue.readyToReset.isEmpty else { return }
    // Common header 12, AUTH, chunk header 4, parameter header and three numbers 16.
    let room = (packetLimit(of: carrier) - 12 - (authenticatesAll ? algorithm?.chunkLength ?? 0 : 0) - 20) / 2
    let streams = queue.takeReadyToReset(atMost: min(room, StreamRequests.maximumStreamsPerRequest))
    streamRequests.begin(.resetOutgoing(streams), lastTSN: last)
  }

  mutating func retryStreamRequest(at now: Instant) {
    guard let outstanding = streamRequests.outstanding else { return }
    streamRequests.outstanding?.mustSend = true
    // A peer that has said "in progress" is alive.
    if !outstanding.isInProgress { chargeUnanswered(at: now) }
  }

  // MARK: Receiving

  mutating func receiveReconfiguration(_ chunk: Chunk, at now: Instant) {
    guard usesStreamReset, isPastHandshake else { return }
    guard let parameters = Parameter.list(in: chunk.value) else { return violate("malformed RE-CONFIG") }
    // Section 3.1 allows one or two.
    for parameter in parameters.prefix(2) where state != .closed {
      var value = parameter.value
      guard let number = value.readInteger(as: UInt32.self) else { return violate("malformed RE-CONFIG") }
      let serial = ResetSerial(number)
      if parameter.type == ParameterType.resetResponse {
        guard let result = value.readInteger(as: UInt32.self) else { return violate("malformed RE-CONFIG") }
        receiveStreamResponse(serial, StreamResult(rawValue: result) ?? .denied, at: now)
      } else {
        receiveStreamRequest(parameter.type, serial, &value, at: now)
      }
    }
  }

  private mutating func receiveStreamRequest(_ type: UInt16, _ serial: ResetSerial, _ value: inout ByteBuffer, at now: Instant) {
    if let old = streamRequests.answered.first(where: { $0.serial == serial }) { return streamRequests.say(serial, old.result) }
    guard serial == streamRequests.nextToReceive else { return streamRequests.say(serial, .badSequenceNumber) }
    streamRequests.nextToReceive = serial.next
    switch type {
    case ParameterType.outgoingReset:
      guard let answering = value.readInteger(as: UInt32.self), let last = value.readInteger(as: UInt32.self) else {
        return violate("malformed RE-CONFIG")
      }
      receiveOutgoingReset(serial, last: TSN(last), value.readStreams(), at: now)
      if let outstanding = streamRequests.outstanding, outstanding.serial.value == answering, case .resetIncoming = outstanding.request {
        endStreamRequest()
      }
    case ParameterType.incomingReset: receiveIncomingReset(serial, value.readStreams())
    case ParameterType.addOutgoingStreams:
      guard let count = value.readInteger(as: UInt16.self) else { return violate("malformed RE-CONFIG") }
      guard count > 0, Int(inboundStreams) + Int(count) <= Self.maximumStreams else { return streamRequests.answer(serial, .denied) }
      inboundStreams += count
      streamRequests.answer(serial, .performed)
      effects.append(.streamsAdded(.incoming, total: inboundStreams))
    case ParameterType.addIncomingStreams:
      guard let count = value.readInteger(as: UInt16.self) else { return violate("malformed RE-CONFIG") }
      streamRequests.answer(serial, addStreams(count, .outgoing) ? .performed : .denied)
    default: streamRequests.answer(serial, .denied)  // SSN/TSN reset among them: nobody has need of it here (section 5.2.4 lets us)
    }
  }

  private mutating func receiveOutgoingReset(_ serial: ResetSerial, last: TSN, _ streams: [StreamID], at now: Instant) {
    guard streams.allSatisfy({ $0.value < inboundStreams }) else { return streamRequests.answer(serial, .wrongStream) }
    guard last.isAfter(inbound.cumulativeTSN) else {
      performReset(streams)
      return streamRequests.answer(serial, .performed)
    }
    guard streamRequests.deferred.count < StreamRequests.maximumDeferred else { return streamRequests.answer(serial, .alreadyInProgress) }
    streamRequests.deferred.append(StreamRequests.Deferred(serial: serial, lastTSN: last, streams: streams))
    streamRequests.answer(serial, .inProgress)
  }

  /// DATA has come: resets that waited for it.
  mutating func performDeferredResets() {
    let due = streamRequests.deferred.filter { !$0.lastTSN.isAfter(inbound.cumulativeTSN) }
    guard !due.isEmpty else { return }
    streamRequests.deferred.removeAll { !$0.lastTSN.isAfter(inbound.cumulativeTSN) }
    for reset in due {
      performReset(reset.streams)
      streamRequests.answer(reset.serial, .performed)
    }
  }

  /// DATA of a stream whose reset waits for earlier DATA: it belongs to the time after, and the peer should not have sent it yet (section 5.2.2, E3).
  func isBeyondReset(_ chunk: InboundChunk) -> Bool {
    streamRequests.deferred.contains { reset in
      chunk.tsn.isAfter(reset.lastTSN) && (reset.streams.isEmpty || reset.streams.contains(chunk.stream))
    }
  }

  private mutating func performReset(_ streams: [StreamID]) {
    inbound.reset(streams)
    effects.append(.streamsReset(.incoming, streams))
  }

  private mutating func receiveIncomingReset(_ serial: ResetSerial, _ streams: [StreamID]) {
    guard streams.allSatisfy({ $0.value < peerInboundStreams }) else { return streamRequests.answer(serial, .wrongStream) }
    guard streamRequests.incomingToAnswer == nil else { return streamRequests.answer(serial, .alreadyInProgress) }
    let all = streams.isEmpty ? queue.streams.keys.sorted().map { StreamID($0) } : streams
    let begun = all.filter { !queue.isResetting($0) }
    guard state == .established, !begun.isEmpty else { return streamRequests.answer(serial, .nothingToDo) }
    _ = resetStreams(begun)
    // The outgoing reset that follows is the answer; a repetition before it hears that it is on its way.
    streamRequests.incomingToAnswer = serial
    streamRequests.answer(serial, .inProgress)
  }

  private mutating func receiveStreamResponse(_ serial: ResetSerial, _ result: StreamResult, at now: Instant) {
    guard let outstanding = streamRequests.outstanding, outstanding.serial == serial else { return }
    if result == .inProgress {
      streamRequests.outstanding?.isInProgress = true
      timers.streamRequest = now + (activeCarrier.flatMap { carriers[$0]?.path?.rto } ?? StreamRequests.patience)
      return
    }
    let isDone = result == .performed || result == .nothingToDo
    switch outstanding.request {
    case .resetOutgoing(let streams):
      for stream in streams { queue.endReset(of: stream, isDone: isDone) }
      effects.append(isDone ? .streamsReset(.outgoing, streams) : .streamsNotReset(streams, reason: result.words))
    case .addOutgoing(let count) where isDone:
      peerInboundStreams += count
      effects.append(.streamsAdded(.outgoing, total: peerInboundStreams))
    default: if !isDone { effects.append(.streamRequestRefused(result.words)) }  // what the peer does about the others, it says by itself
    }
    endStreamRequest()
    tellSendSpace()
  }

  private mutating func endStreamRequest() {
    streamRequests.outstanding = nil
    timers.streamRequest = nil
  }
}
