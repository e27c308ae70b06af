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

/// One direction of one flow, the receiving end.
package struct FlowDecoder: ~Copyable {
  private var decompressor: ZstdDecompressor?

  package init() {}

  /// What a compressed batch stands for: at most `limit` octets, in storage of about its own size.
  package mutating func decode(_ packed: ByteBuffer, atMost limit: Int) throws(DecompressionError) -> ByteBuffer {
    if decompressor == nil { decompressor = ZstdDecompressor() }
    guard decompressor != nil else { throw .corrupt("no memory for a decompressor") }
    var output = ByteBufferAllocator().buffer(capacity: limit + 1)
    var isOver = false
    if let over = try decompressor?.decompress(packed, into: &output, atMost: limit) { isOver = over }
    if isOver { decompressor = nil }
    return output.withoutSpare()
  }

  package var holdsContext: Bool { decompressor != nil }
}

extension ByteBuffer {
  /// The same octets; copied if they would keep more than four times their size of memory alive while they wait for a slow receiver.
  package func withoutSpare() -> ByteBuffer {
    guard storageCapacity > 4 * readableBytes + 256 else { return self }
    var copy = ByteBufferAllocator().buffer(capacity: readableBytes)
    copy.writeImmutableBuffer(self)
    return copy
  }
}
