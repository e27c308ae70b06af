import NIOCore

/// What the two ends of one flow's codec say to each other, one direction's data and the other direction's answers. A tunnel has a frame for each, a session a message.
package enum CodedFrame: Sendable, Hashable {
  /// Octets that are compressed as the direction's coding says.
  case data(ByteBuffer)
  /// Octets as they are.
  case literal(ByteBuffer)
  /// Chunks that the receiver should have, in order.
  case reference([ChunkReference])
  /// The receiver lacks these: the ordinals of REFERENCE's chunks, counted from 0 in each direction of a flow, modulo 2^32.
  case missing([UInt32])
  /// The answer to MISSING, for one chunk.
  case chunk(UInt32, ByteBuffer)
  /// So many chunks, from the first on without a gap, have been found or come: the sender may forget them.
  case resolved(UInt32)
  /// What follows is of this lane.
  case lane(UInt16)
}

extension CodedFrame {
  /// Name (20) and octets (2).
  package static let referenceOctets = ChunkName.octets + 2
  /// 23 x 22 octets fit a frame of 512.
  package static let referencesAtOnce = 23
  /// 128 x 4 octets.
  package static let missingAtOnce = 128

  /// The body of every frame but DATA and LITERAL, whose octets are the body.
  package func writeBody(into buffer: inout ByteBuffer) {
    switch self {
    case .data(let bytes), .literal(let bytes): buffer.writeImmutableBuffer(bytes)
    case .reference(let references):
      for reference in references {
        reference.name.write(into: &buffer)
        buffer.writeInteger(UInt16(reference.octets))
      }
    case .missing(let ordinals): for ordinal in ordinals { buffer.writeInteger(ordinal) }
    case .chunk(let ordinal, let bytes):
      buffer.writeInteger(ordinal)
      buffer.writeImmutableBuffer(bytes)
    case .resolved(let count): buffer.writeInteger(count)
    case .lane(let lane): buffer.writeInteger(lane)
    }
  }

  /// REFERENCE's body; nil if it is malformed.
  package init?(references body: ByteBuffer) {
    var body = body
    guard body.readableBytes > 0, body.readableBytes % CodedFrame.referenceOctets == 0 else { return nil }
    var references: [ChunkReference] = []
    references.reserveCapacity(body.readableBytes / CodedFrame.referenceOctets)
    while body.readableBytes > 0 {
      guard let name = ChunkName(from: &body), let octets = body.readInteger(as: UInt16.self), octets > 0, octets <= ChunkLimits.maximum
      else { return nil }
      references.append(ChunkReference(name: name, octets: Int(octets)))
    }
    self = .reference(references)
  }

  package init?(missing body: ByteBuffer) {
    var body = body
    guard body.readableBytes > 0, body.readableBytes % 4 == 0 else { return nil }
    var ordinals: [UInt32] = []
    while let ordinal = body.readInteger(as: UInt32.self) { ordinals.append(ordinal) }
    self = .missing(ordinals)
  }

  package init?(chunk body: ByteBuffer) {
    var body = body
    guard let ordinal = body.readInteger(as: UInt32.self), (1...ChunkLimits.maximum).contains(body.readableBytes) else { return nil }
    self = .chunk(ordinal, body)
  }

  package init?(resolved body: ByteBuffer) {
    var body = body
    guard let count = body.readInteger(as: UInt32.self), body.readableBytes == 0 else { return nil }
    self = .resolved(count)
  }

  package init?(lane body: ByteBuffer) {
    var body = body
    guard let lane = body.readInteger(as: UInt16.self), body.readableBytes == 0 else { return nil }
    self = .lane(lane)
  }
}

extension ChunkName {
  package func write(into buffer: inout ByteBuffer) {
    buffer.writeInteger(high)
    buffer.writeInteger(middle)
    buffer.writeInteger(low)
  }

  package init?(from buffer: inout ByteBuffer) {
    guard let high = buffer.readInteger(as: UInt64.self), let middle = buffer.readInteger(as: UInt64.self),
      let low = buffer.readInteger(as: UInt32.self)
    else { return nil }
    self.init(high: high, middle: middle, low: low)
  }
}
