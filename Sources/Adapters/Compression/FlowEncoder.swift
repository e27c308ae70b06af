import NIOCore

/// One direction of one flow, the sending end.
package struct FlowEncoder: ~Copyable {
  package enum Encoded: Sendable {
    case literal(ByteBuffer)
    case compressed(ByteBuffer)
  }

  private var policy = CompressionPolicy()
  private var compressor: ZstdCompressor?
  private var level: Int32 = 0
  /// Octets that went into the zstd frame.
  private var octetsInFrame = 0

  /// A zstd frame that is longer ends where another level is due: what a new one has to learn again is little beside that.
  package static let shortestFrame = 4 << 20

  package init() {}

  /// Encodes one batch. `reserving` octets are left free at the front of a compressed one, for a header.
  package mutating func encode(_ plain: ByteBuffer, reserving header: Int = 0, level wanted: Int32 = ZstdSettings.level) -> Encoded {
    guard policy.choose(plain.readableBytes) == .compress else { return .literal(plain) }
    if compressor == nil {
      compressor = ZstdCompressor(level: wanted)
      level = wanted
      octetsInFrame = 0
    }
    guard compressor != nil else { return .literal(plain) }  // no memory: the flow goes on, larger
    var output = ByteBufferAllocator().buffer(capacity: header + plain.readableBytes / 2 + 64)
    output.moveWriterIndex(to: header)
    output.moveReaderIndex(to: header)
    octetsInFrame += plain.readableBytes
    let isLast = level != wanted && octetsInFrame >= FlowEncoder.shortestFrame
    compressor?.compress(plain, isLast ? .frame : .flush, into: &output)
    if isLast { compressor = nil }
    if case .giveUp = policy.compressed(plain.readableBytes, to: output.readableBytes) {
      compressor?.compress(ByteBuffer(), .frame, into: &output)
      compressor = nil
    }
    return .compressed(output)
  }

  /// For a flow that has been idle for long: the end of its zstd frame, which frees the context at both ends; nil without one.
  package mutating func rest(reserving header: Int = 0) -> ByteBuffer? {
    guard compressor != nil else { return nil }
    var output = ByteBufferAllocator().buffer(capacity: header + 64)
    output.moveWriterIndex(to: header)
    output.moveReaderIndex(to: header)
    compressor?.compress(ByteBuffer(), .frame, into: &output)
    compressor = nil
    return output
  }

  /// True while it holds a C context.
  package var holdsContext: Bool { compressor != nil }
}
