import NIOCore

/// The 16 octets of every request, and at the head of every answer (docs/wire/probing.md).
package struct ProbeMessage: Hashable, Sendable {
  package enum Kind: UInt8, Sendable {
    case echo = 0x01
    case train = 0x02
    case echoAnswer = 0x81
    /// `size` octets follow; a size of zero says "not now".
    case trainAnswer = 0x82
  }

  package static let octets = 16
  /// "LHPR".
  package static let magic: UInt32 = 0x4c48_5052
  package static let version: UInt8 = 1

  package var kind: Kind
  package var size: UInt32
  package var nonce: UInt32

  package init(kind: Kind, size: UInt32 = 0, nonce: UInt32) {
    self.kind = kind
    self.size = size
    self.nonce = nonce
  }

  package func write(into buffer: inout ByteBuffer) {
    buffer.writeMultipleIntegers(ProbeMessage.magic, ProbeMessage.version, kind.rawValue, UInt16(0), size, nonce)
  }

  /// Nil while octets are missing.
  package static func read(from buffer: inout ByteBuffer) throws(ProbeViolation) -> ProbeMessage? {
    guard buffer.readableBytes >= octets,
      let (magic, version, kind, reserved, size, nonce) = buffer.readMultipleIntegers(
        as: (UInt32, UInt8, UInt8, UInt16, UInt32, UInt32).self)
    else { return nil }
    guard magic == ProbeMessage.magic else { throw .notOurs }
    guard version == ProbeMessage.version else { throw .version(version) }
    guard let kind = Kind(rawValue: kind), reserved == 0 else { throw .unknownKind(kind) }
    switch kind {
    case .echo, .echoAnswer: guard size == 0 else { throw .badSize(size) }
    case .train: guard size > 0, size <= UInt32(ProbeLimits.maximumTrain) else { throw .badSize(size) }
    case .trainAnswer: guard size <= UInt32(ProbeLimits.maximumTrain) else { throw .badSize(size) }
    }
    return ProbeMessage(kind: kind, size: size, nonce: nonce)
  }
}

/// What a peer has done wrong.
package enum ProbeViolation: Error, Hashable, CustomStringConvertible {
  case notOurs
  case version(UInt8)
  case unknownKind(UInt8)
  case badSize(UInt32)
  case unexpectedAnswer

  package var description: String {
    switch self {
    case .notOurs: "what it says is not the probe protocol"
    case .version(let version): "it speaks version \(version) of the probe protocol, this is \(ProbeMessage.version)"
    case .unknownKind(let kind): "probe message of the unknown kind \(kind)"
    case .badSize(let size): "probe message with the impossible size \(size)"
    case .unexpectedAnswer: "it answers what was not asked"
    }
  }
}
