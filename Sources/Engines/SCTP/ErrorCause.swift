import NIOCore
import Vocabulary

/// Causes in ERROR and ABORT chunks and in ASCONF-ACK (RFC 9260 section 3.3.10, RFC 5061 section 4.3).
enum ErrorCause: UInt16, Sendable {
  case invalidStream = 1
  case missingParameter = 2
  case staleCookie = 3
  case outOfResource = 4
  case unresolvableAddress = 5
  case unrecognizedChunk = 6
  case invalidParameter = 7
  case unrecognizedParameters = 8
  case noUserData = 9
  case cookieWhileShuttingDown = 10
  case restartWithNewAddresses = 11
  case userAbort = 12
  case protocolViolation = 13
  case deletesLastAddress = 0xa0
  case resourceShortage = 0xa1
  case deletesSourceAddress = 0xa2
  case illegalASCONFAck = 0xa3
  case notAuthorized = 0xa4

  /// What a person reads.
  var words: String {
    switch self {
    case .invalidStream: "a message for a stream that does not exist"
    case .missingParameter: "a parameter is missing"
    case .staleCookie: "the handshake took longer than its cookie lives"
    case .outOfResource: "the peer has no room for another association"
    case .unresolvableAddress: "an address that cannot be resolved"
    case .unrecognizedChunk: "a chunk that the peer does not know"
    case .invalidParameter: "a parameter with an impossible value"
    case .unrecognizedParameters: "parameters that the peer does not know"
    case .noUserData: "a message without an octet"
    case .cookieWhileShuttingDown: "the old association is still being shut down"
    case .restartWithNewAddresses: "a restart from other addresses"
    case .userAbort: "the peer gave the association up"
    case .protocolViolation: "a breach of the protocol"
    case .deletesLastAddress: "the last address cannot be deleted"
    case .resourceShortage: "too many addresses"
    case .deletesSourceAddress: "the address that a request comes from cannot be deleted by it"
    case .illegalASCONFAck: "an ASCONF-ACK of what was never asked"
    case .notAuthorized: "the request is not allowed"
    }
  }
}

extension ByteBuffer {
  /// User-Initiated Abort (RFC 9260 section 3.3.10.12) with a reason in words.
  mutating func writeAbortCause(_ reason: String) { writeReason(.userAbort, reason) }

  /// A cause whose information is text: 512 octets of it are enough for a person.
  mutating func writeReason(_ cause: ErrorCause, _ reason: String) {
    let text = Array(reason.utf8.prefix(512))
    writeCause(cause) { $0.writeBytes(text) }
  }

  /// An error cause has the shape of a parameter (RFC 9260 section 3.3.10).
  mutating func writeCause(_ cause: ErrorCause, _ write: (inout ByteBuffer) -> Void) { writeParameter(cause.rawValue, write) }

  /// The first cause of an ABORT or ERROR chunk, in words.
  mutating func readCause() -> String {
    guard let code = readInteger(as: UInt16.self), let length = readInteger(as: UInt16.self), length >= 4,
      let info = readSlice(length: min(Int(length) - 4, readableBytes))
    else { return "no reason was given" }
    guard let cause = ErrorCause(rawValue: code) else { return "error cause \(code)" }
    let hasText = cause == .userAbort || cause == .protocolViolation || cause == .illegalASCONFAck
    return hasText && info.readableBytes > 0 ? String(decoding: info.readableBytesView, as: UTF8.self) : cause.words
  }
}
