import NIOCore
import Vocabulary

extension FlowFrame {
  package var kind: Kind {
    switch self {
    case .open: .open
    case .opened: .opened
    case .refused: .refused
    case .data: .data
    case .credit: .credit
    case .end: .end
    case .reset: .reset
    }
  }

  /// The longest body of any frame but DATA: OPEN with a host of 255 octets.
  package static let longestControlBody = 4 + 2 + 1 + 255

  /// Writes what follows the kind. OPEN: window (4), port (2), length of host (1), host. OPENED, CREDIT: a number (4). REFUSED: a reason (1).
  /// DATA: the octets. END, RESET: nothing. An END or RESET carried by SCTP, which knows no empty message, gets one zero octet from its carrier.
  package func writeBody(into buffer: inout ByteBuffer) {
    switch self {
    case .open(let target, let window):
      buffer.writeInteger(window)
      buffer.writeInteger(target.port)
      let host = target.host.utf8.prefix(255)
      buffer.writeInteger(UInt8(host.count))
      buffer.writeBytes(host)
    case .opened(let window): buffer.writeInteger(window)
    case .refused(let why): buffer.writeInteger(why.rawValue)
    case .data(let bytes): buffer.writeImmutableBuffer(bytes)
    case .credit(let octets): buffer.writeInteger(octets)
    case .end, .reset: break
    }
  }

  /// Reads a whole body. A refusal with a number of a later version reads as `.failed`.
  package init(kind: Kind, body: ByteBuffer) throws(FlowViolation) {
    var body = body
    switch kind {
    case .open:
      guard let window = body.readInteger(as: UInt32.self), let port = body.readInteger(as: UInt16.self),
        let length = body.readInteger(as: UInt8.self), length > 0, body.readableBytes == Int(length),
        let octets = body.readBytes(length: Int(length)),
        let host = String(validating: octets, as: UTF8.self)
      else { throw .malformed(kind) }
      self = .open(FlowTarget(host: host, port: port), window: window)
    case .opened:
      guard let window = body.readInteger(as: UInt32.self), body.readableBytes == 0 else { throw .malformed(kind) }
      self = .opened(window: window)
    case .refused:
      guard let why = body.readInteger(as: UInt8.self), body.readableBytes == 0 else { throw .malformed(kind) }
      self = .refused(FlowRefusal(rawValue: why) ?? .failed)
    case .data: self = .data(body)
    case .credit:
      guard let octets = body.readInteger(as: UInt32.self), body.readableBytes == 0 else { throw .malformed(kind) }
      self = .credit(octets)
    case .end: self = .end
    case .reset: self = .reset
    }
  }
}
