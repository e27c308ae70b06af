import NIOCore

/// Computes HMACs for the engine, which does no cryptography of its own.
package protocol Authenticator: Sendable {
  /// HMAC-SHA-256, 32 octets, over `parts`, one after the other.
  func authenticationCode(key: [UInt8], _ parts: [ByteBuffer]) -> [UInt8]
  /// HMAC-SHA-1, 20 octets: for other stacks that know nothing else (RFC 4895 section 6.1 makes it the common ground).
  func legacyAuthenticationCode(key: [UInt8], _ parts: [ByteBuffer]) -> [UInt8]
}

/// HMAC identifiers (RFC 4895 section 3.3).
package enum HMACAlgorithm: UInt16, Sendable, Hashable {
  case sha1 = 1
  case sha256 = 3

  var codeLength: Int { self == .sha1 ? 20 : 32 }
  /// The AUTH chunk: header, key identifier, HMAC identifier, code.
  var chunkLength: Int { Authentication.codeOffset + codeLength }
}

extension Authenticator {
  func code(_ algorithm: HMACAlgorithm, key: [UInt8], _ covered: ByteBuffer) -> [UInt8] {
    switch algorithm {
    case .sha1: legacyAuthenticationCode(key: key, [covered])
    case .sha256: authenticationCode(key: key, [covered])
    }
  }
}

/// Authenticated chunks (RFC 4895).
enum Authentication {
  /// The code of a state cookie, which is nobody's business but ours.
  static let codeLength = HMACAlgorithm.sha256.codeLength
  /// Chunk header, key identifier, HMAC identifier.
  static let codeOffset = 8
  static let randomLength = 32

  /// What we want authenticated. COOKIE ECHO too, so that a peer with another endpoint key is told at once.
  static let chunks: [ChunkType] = [.cookieEcho, .asconf, .asconfAck]

  static func writeParameters(into bytes: inout ByteBuffer, random: [UInt8], _ algorithms: [HMACAlgorithm]) {
    bytes.writeParameter(ParameterType.random) { $0.writeBytes(random) }
    bytes.writeParameter(ParameterType.chunkList) { $0.writeBytes(chunks.map(\.rawValue)) }
    bytes.writeParameter(ParameterType.hmacAlgorithms) { for algorithm in algorithms { $0.writeInteger(algorithm.rawValue) } }
  }

  static func keyVector(random: [UInt8], _ algorithms: [HMACAlgorithm]) -> ByteBuffer {
    var bytes = ByteBuffer()
    // As `writeParameters`, without padding (RFC 4895 section 6.1).
    bytes.writeInteger(ParameterType.random)
    bytes.writeInteger(UInt16(4 + random.count))
    bytes.writeBytes(random)
    bytes.writeInteger(ParameterType.chunkList)
    bytes.writeInteger(UInt16(4 + chunks.count))
    bytes.writeBytes(chunks.map(\.rawValue))
    bytes.writeInteger(ParameterType.hmacAlgorithms)
    bytes.writeInteger(UInt16(4 + 2 * algorithms.count))
    for algorithm in algorithms { bytes.writeInteger(algorithm.rawValue) }
    return bytes
  }

  /// The association's key: the endpoint key, then the two key vectors, the numerically smaller one first (RFC 4895 section 6.1).
  static func associationKey(endpointKey: [UInt8], _ a: ByteBuffer, _ b: ByteBuffer) -> [UInt8] {
    let first = isSmaller(a, b) ? a : b
    let second = isSmaller(a, b) ? b : a
    return endpointKey + Array(first.readableBytesView) + Array(second.readableBytesView)
  }

  /// As numbers, the shorter one padded with zeros at its front; equal numbers of different lengths: the shorter is smaller.
  private static func isSmaller(_ a: ByteBuffer, _ b: ByteBuffer) -> Bool {
    let width = max(a.readableBytes, b.readableBytes)
    func wide(_ bytes: ByteBuffer) -> [UInt8] { [UInt8](repeating: 0, count: width - bytes.readableBytes) + Array(bytes.readableBytesView) }
    let (wideA, wideB) = (wide(a), wide(b))
    return wideA == wideB ? a.readableBytes < b.readableBytes : wideA.lexicographicallyPrecedes(wideB)
  }

  /// True if the AUTH chunk is well-formed and its code covers what stands from it to the packet's end.
  static func verifies(
    _ chunk: Chunk, in packet: Packet, key: [UInt8], _ configuration: AssociationConfiguration, by authenticator: some Authenticator
  ) -> Bool {
    var value = chunk.value
    guard value.readInteger(as: UInt16.self) == configuration.endpointKeyIdentifier,
      let algorithm = value.readInteger(as: UInt16.self).flatMap(HMACAlgorithm.init(rawValue:)),
      configuration.features.algorithms.contains(algorithm), let code = value.readBytes(length: algorithm.codeLength),
      value.readableBytes == 0,
      var covered = packet.bytes.getSlice(at: packet.bytes.readerIndex + chunk.offset, length: packet.bytes.readableBytes - chunk.offset)
    else { return false }
    covered.setRepeatingByte(0, count: algorithm.codeLength, at: covered.readerIndex + codeOffset)
    return isEqual(code, authenticator.code(algorithm, key: key, covered))
  }

  /// In a time that does not tell where the first difference is.
  static func isEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool {
    guard a.count == b.count else { return false }
    return zip(a, b).reduce(UInt8(0)) { $0 | ($1.0 ^ $1.1) } == 0
  }
}
