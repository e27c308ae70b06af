import DequeModule
import NIOCore
import Vocabulary

/// Which of the two directions of a stream id.
package enum StreamDirection: Sendable, Hashable {
  case outgoing, incoming
}

/// What one RE-CONFIG asks for (RFC 6525 section 4).
enum StreamRequest: Sendable, Equatable {
  case resetOutgoing([StreamID])
  case resetIncoming([StreamID])
  case addOutgoing(UInt16)
  case addIncoming(UInt16)
}

/// The results of a Re-configuration Response (RFC 6525 section 4.4).
enum StreamResult: UInt32, Sendable {
  case nothingToDo = 0
  case performed = 1
  case denied = 2
  case wrongStream = 3
  case alreadyInProgress = 4
  case badSequenceNumber = 5
  case inProgress = 6

  var words: String {
    switch self {
    case .nothingToDo, .performed: "done"
    case .denied: "denied"
    case .wrongStream: "a stream that does not exist"
    case .alreadyInProgress: "another request is in progress"
    case .badSequenceNumber: "a wrong sequence number"
    case .inProgress: "in progress"
    }
  }
}

/// Requests for streams, ours and the peer's, and their numbers (RFC 6525 section 5).
struct StreamRequests: Sendable {
  /// The one request that waits for its answer. It is sent again byte for byte.
  struct Outstanding: Sendable {
    var serial: ResetSerial
    var request: StreamRequest
    var chunk: ByteBuffer
    /// It has to be sent, for the first time or again after its carrier went or its time was up.
    var mustSend = true
    /// The peer has it, and waits for DATA that it has not got.
    var isInProgress = false
  }

  /// An outgoing reset of the peer whose last TSN has not come yet.
  struct Deferred: Sendable {
    var serial: ResetSerial
    var lastTSN: TSN
    var streams: [StreamID]
  }

  /// Requests of ours beside the resets, which wait in the send queue.
  static let maximumWaiting = 16
  /// A correct peer has one request out; the others are room for one that repeats it under new numbers.
  static let maximumDeferred = 4
  /// Answers are sent at once; more are those of a flood, and their requests come again.
  static let maximumAnswers = 8
  /// The RFC lets a chunk hold two requests, so two may be repeated.
  static let rememberedAnswers = 2
  /// 1,024 x 2 octets: 16 KiB/s of flows that live for a round trip of 60 ms; a datagram takes fewer.
  static let maximumStreamsPerRequest = 1_024
  /// A request in progress on a reliable carrier is repeated so often, in case the peer says no more of it by itself.
  static let patience = TimeSpan.seconds(1 as Int64)

  var nextToSend = ResetSerial(0)
  var nextToReceive = ResetSerial(0)
  var waiting: Deque<StreamRequest> = []
  var outstanding: Outstanding?
  var deferred: [Deferred] = []
  /// The results of the latest requests of the peer.
  var answered: [(serial: ResetSerial, result: StreamResult)] = []
  /// Responses to send: parameters.
  var answers: Deque<ByteBuffer> = []
  /// The peer's request that the next outgoing reset answers.
  var incomingToAnswer: ResetSerial?

  /// Both sides count from their initial TSNs (RFC 6525 section 4.1).
  mutating func begin(ours: TSN, peers: TSN) {
    self = StreamRequests()
    nextToSend = ResetSerial(ours.value)
    nextToReceive = ResetSerial(peers.value)
  }

  var hasSomethingToSay: Bool { !answers.isEmpty || outstanding?.mustSend == true || (outstanding == nil && !waiting.isEmpty) }

  mutating func answer(_ serial: ResetSerial, _ result: StreamResult) {
    if let index = answered.firstIndex(where: { $0.serial == serial }) {
      answered[index].result = result
    } else {
      answered.append((serial, result))
      if answered.count > Self.rememberedAnswers { answered.removeFirst() }
    }
    say(serial, result)
  }

  /// As `answer`, but nothing is remembered.
  mutating func say(_ serial: ResetSerial, _ result: StreamResult) {
    guard answers.count < Self.maximumAnswers else { return }
    var parameter = ByteBuffer()
    parameter.writeParameter(ParameterType.resetResponse) {
      $0.writeInteger(serial.value)
      $0.writeInteger(result.rawValue)
    }
    answers.append(parameter)
  }

  /// Makes a request the one that is out.
  mutating func begin(_ request: StreamRequest, lastTSN: TSN) {
    let serial = nextToSend
    nextToSend = serial.next
    var chunk = ByteBuffer()
    switch request {
    case .resetOutgoing(let streams):
      // Not an answer: the number of the peer's latest request (section 4.1).
      let answering = incomingToAnswer ?? nextToReceive.previous
      if let incomingToAnswer, let index = answered.firstIndex(where: { $0.serial == incomingToAnswer }) {
        answered[index].result = .performed
      }
      incomingToAnswer = nil
      chunk.writeParameter(ParameterType.outgoingReset) {
        $0.writeInteger(serial.value)
        $0.writeInteger(answering.value)
        $0.writeInteger(lastTSN.value)
        for stream in streams { $0.writeInteger(stream.value) }
      }
    case .resetIncoming(let streams):
      chunk.writeParameter(ParameterType.incomingReset) {
        $0.writeInteger(serial.value)
        for stream in streams { $0.writeInteger(stream.value) }
      }
    case .addOutgoing(let count), .addIncoming(let count):
      let type = if case .addOutgoing = request { ParameterType.addOutgoingStreams } else { ParameterType.addIncomingStreams }
      chunk.writeParameter(type) {
        $0.writeInteger(serial.value)
        $0.writeInteger(count)
        $0.writeInteger(UInt16(0))
      }
    }
    outstanding = Outstanding(serial: serial, request: request, chunk: chunk)
  }
}

extension ByteBuffer {
  /// The stream numbers at the end of a reset request.
  mutating func readStreams() -> [StreamID] {
    var streams: [StreamID] = []
    streams.reserveCapacity(readableBytes / 2)
    while let value = readInteger(as: UInt16.self) { streams.append(StreamID(value)) }
    return streams
  }
}
