import NIOCore

/// What a flow is, by its first octets. Both ends decide from the same octets, so they decide alike.
enum FlowKind: Sendable, Hashable {
  /// One lane, cut into chunks.
  case ordinary
  /// Ciphertext: it never comes twice, so it is neither cut nor named.
  case opaque
  /// A carrier of ours in open mode: headers on lane 0, users' data on the others.
  case carrier

  /// By then every flow is decided: a frame's length, a common header, and a chunk header.
  static let octetsNeeded = 2 + 12 + 4

  /// Nil: more octets are needed. To be asked with each octet more, and the first answer counts.
  init?(_ first: ByteBuffer) {
    let count = first.readableBytes
    let octets = first.readableBytesView
    func octet(_ index: Int) -> UInt8 { octets[octets.startIndex + index] }
    func half(_ index: Int) -> Int { Int(octet(index)) << 8 | Int(octet(index + 1)) }
    // A TLS record: handshake, any version (RFC 8446 section 5.1).
    if count == 2, half(0) == 0x1603 {
      self = .opaque
      return
    }
    // The client's end of a later sealed carrier: "LHS1" (docs/wire/sealing.md).
    if count == 4, half(0) == 0x4c48, half(2) == 0x5331 {
      self = .opaque
      return
    }
    // The agent's end: a frame whose packet number is zero. Its packet is AUTH, SACK and ASCONF-ACK, sealed, and fits into a segment.
    if count == 10, (60...1_500).contains(half(0)), (2..<10).allSatisfy({ octet($0) == 0 }) {
      self = .opaque
      return
    }
    guard count >= FlowKind.octetsNeeded else { return nil }
    let rest = half(0) - 12
    let tag = half(6) << 16 | half(8)
    let length = half(16)
    let padded = (length + 3) & ~3
    self = .ordinary
    guard half(2) != 0, half(4) != 0, octet(15) == 0 else { return }
    switch octet(14) {
    // INIT and INIT ACK stand alone, INIT under the tag 0 (RFC 9260 sections 3.3.2, 3.3.3, 8.5.1).
    case 1: if tag == 0, length >= 20, padded == rest { self = .carrier }
    case 2: if tag != 0, length >= 20, padded == rest { self = .carrier }
    // AUTH, before ASCONF or before SACK: 8 octets and the code of SHA-256 or SHA-1 (RFC 4895 section 4.1).
    case 15: if tag != 0, length == 40 || length == 28, rest >= padded + 8 { self = .carrier }
    default: break
    }
  }
}
