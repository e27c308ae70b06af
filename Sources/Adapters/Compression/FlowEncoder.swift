import NIOCore

/// One direction of one flow, the sending end.
package struct FlowEncoder: ~Copyable {
  package enum Encoded: Sendable {
    case literal(ByteBuffer)
    case compressed(ByteBuffer)
  }

  private var policy = CompressionPolicy()
  private var compressor: ZstdCompressor?

  package init() {}

  /// Encodes one batch. `reserving` octets are left free at the front of a compressed one, for a header.
  package mutating func encode(_ plain: ByteBuffer, reserving header: Int = 0) -> Encoded {
    guard policy.choose(plain.readableBytes) == .compress else { return .literal(plain) }
    if compressor == nil { compressor = ZstdCompressor() }
    guard compressor != nil else { return .literal(plain) }  // no memory: the flow goes on, larger
    var output = ByteBufferAllocator().buffer(capacity: header + plain.readableBytes / 2 + 64)
    output.moveWriterIndex(to: header)
    output.moveReaderIndex(to: header)
    compressor?.compress(plain, .flush, into: &output)
    if case .giveUp = policy.compressed(plain.readableBytes, to: output.readableBytes) {
      compressor?.compress(ByteBuffer(), .frame, into: &output)
      compressor = nil
    }
    return .compressed(output)
  }

  /// True while it holds a C context.
  package var holdsContext: Bool { compressor != nil }
}
