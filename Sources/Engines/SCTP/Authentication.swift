import NIOCore

/// Computes HMAC-SHA-256 for the engine, which does no cryptography of its own.
package protocol Authenticator: Sendable {
  /// The code of 32 octets over `parts`, one after the other.
  func authenticationCode(key: [UInt8], _ parts: [ByteBuffer]) -> [UInt8]
}

/// Authenticated chunks (RFC 4895).
enum Authentication {
  static let hmacSHA256: UInt16 = 3
  static let codeLength = 32
  /// Chunk header, key identifier, HMAC identifier.
  static let codeOffset = 8
  static let chunkLength = codeOffset + codeLength
  static let randomLength = 32

  /// What we want authenticated. COOKIE ECHO too, so that a peer with another endpoint key is told at once.
  static let chunks: [ChunkType] = [.cookieEcho, .asconf, .asconfAck]

  static func writeParameters(into bytes: inout ByteBuffer, random: [UInt8]) {
    bytes.writeParameter(ParameterType.random) { $0.writeBytes(random) }
    bytes.writeParameter(ParameterType.chunkList) { $0.writeBytes(chunks.map(\.rawValue)) }
    bytes.writeParameter(ParameterType.hmacAlgorithms) { $0.writeInteger(hmacSHA256) }
  }

  static func keyVector(random: [UInt8]) -> ByteBuffer {
    var bytes = ByteBuffer()
    // As `writeParameters`, without padding (RFC 4895 section 6.1).
    bytes.writeInteger(ParameterType.random)
    bytes.writeInteger(UInt16(4 + random.count))
    bytes.writeBytes(random)
    bytes.writeInteger(ParameterType.chunkList)
    bytes.writeInteger(UInt16(4 + chunks.count))
    bytes.writeBytes(chunks.map(\.rawValue))
    bytes.writeInteger(ParameterType.hmacAlgorithms)
    bytes.writeInteger(UInt16(6))
    bytes.writeInteger(hmacSHA256)
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
  static func verifies(_ chunk: Chunk, in packet: Packet, key: [UInt8], by authenticator: some Authenticator) -> Bool {
    var value = chunk.value
    guard value.readInteger(as: UInt16.self) == 0, value.readInteger(as: UInt16.self) == hmacSHA256,
      let code = value.readBytes(length: codeLength),
      value.readableBytes == 0,
      var covered = packet.bytes.getSlice(at: packet.bytes.readerIndex + chunk.offset, length: packet.bytes.readableBytes - chunk.offset)
    else { return false }
    covered.setRepeatingByte(0, count: codeLength, at: covered.readerIndex + codeOffset)
    return isEqual(code, authenticator.authenticationCode(key: key, [covered]))
  }

  /// In a time that does not tell where the first difference is.
  static func isEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool {
    guard a.count == b.count else { return false }
    return zip(a, b).reduce(UInt8(0)) { $0 | ($1.0 ^ $1.1) } == 0
  }
}
